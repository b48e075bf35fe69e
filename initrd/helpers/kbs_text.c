/* SPDX-License-Identifier: Apache-2.0 */
/* Words for people, requests that are put together, and answers that are taken apart. */
#include "kbs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Shorter than where the driver cuts a line, at 200 characters. */
enum { FOLD = 180 };

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void say(const char *format, ...)
{
    char words[2048];
    va_list arguments;

    va_start(arguments, format);
    int wanted = vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    if (wanted < 0)
        return;
    for (char *at = words; *at; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
    for (const char *from = words; *from;) {
        size_t size = strlen(from);
        if (size > FOLD) {
            size = FOLD;
            while (size > FOLD / 2 && from[size] != ' ')
                size--;
            /* A word that fills half a line is cut in the middle. */
            if (from[size] != ' ')
                size = FOLD;
        }
        fprintf(stderr, "%.*s\n", (int)size, from);
        from += size;
        while (*from == ' ')
            from++;
    }
}

static void text_put(struct text *text, const char *data, size_t size)
{
    if (text->full || size >= text->limit - text->size) {
        text->full = true;
        return;
    }
    memcpy(text->data + text->size, data, size);
    text->size += size;
    text->data[text->size] = 0;
}

void text_add(struct text *text, const char *words)
{
    text_put(text, words, strlen(words));
}

void text_add_escaped(struct text *text, const char *words)
{
    for (; *words; words++) {
        if (*words == '"' || *words == '\\')
            text_put(text, "\\", 1);
        text_put(text, words, 1);
    }
}

void text_add_base64(struct text *text, const void *data, size_t size)
{
    const unsigned char *from = data;

    while (size > 0) {
        size_t some = size < 3 ? size : 3;
        uint32_t bits = (uint32_t)from[0] << 16;
        if (some > 1)
            bits |= (uint32_t)from[1] << 8;
        if (some > 2)
            bits |= from[2];
        char four[4] = {ALPHABET[bits >> 18], ALPHABET[bits >> 12 & 63], '=', '='};
        if (some > 1)
            four[2] = ALPHABET[bits >> 6 & 63];
        if (some > 2)
            four[3] = ALPHABET[bits & 63];
        text_put(text, four, sizeof four);
        from += some;
        size -= some;
    }
}

void text_add_field(struct text *text, const char *name, const void *data, size_t size)
{
    text_add(text, ",\"");
    text_add(text, name);
    text_add(text, "\":\"");
    text_add_base64(text, data, size);
    text_add(text, "\"");
}

void to_hex(const unsigned char *data, size_t size, char *hex)
{
    static const char digits[] = "0123456789abcdef";

    for (; size > 0; size--, data++) {
        *hex++ = digits[*data >> 4];
        *hex++ = digits[*data & 15];
    }
    *hex = 0;
}

bool answer_is_plain(struct answer *answer)
{
    static const char start[] = "{\"schema\":1,";

    if (answer->size > 0 && answer->body[answer->size - 1] == '\n')
        answer->size--;
    answer->body[answer->size] = 0;
    for (size_t at = 0; at < answer->size; at++)
        if (answer->body[at] < ' ' || answer->body[at] > '~')
            return false;
    return answer->size > sizeof start && strncmp(answer->body, start, sizeof start - 1) == 0 &&
           answer->body[answer->size - 1] == '}';
}

/* What stands behind `"name":"`, or NULL. */
static const char *value_of(const struct answer *answer, const char *name, bool once)
{
    char key[40];

    if (snprintf(key, sizeof key, "\"%s\":\"", name) >= (int)sizeof key)
        return NULL;
    const char *found = strstr(answer->body, key);
    if (found == NULL || (once && strstr(found + 1, key) != NULL))
        return NULL;
    return found + strlen(key);
}

const char *answer_text(const struct answer *answer, const char *name, size_t *size)
{
    const char *value = value_of(answer, name, true);

    if (value == NULL)
        return NULL;
    *size = strcspn(value, "\"\\");
    return value[*size] == '"' ? value : NULL;
}

/* Three bytes at most from four characters; -1 when they have another spelling or are none. */
static int decode_four(const char *four, unsigned char three[3])
{
    int size = four[3] != '=' ? 3 : four[2] != '=' ? 2 : 1;
    uint32_t bits = 0;

    for (int at = 0; at <= size; at++) {
        const char *digit = four[at] ? strchr(ALPHABET, four[at]) : NULL;
        if (digit == NULL)
            return -1;
        bits |= (uint32_t)(digit - ALPHABET) << (18 - 6 * at);
    }
    /* Bits that belong to no byte are zero, so that equal bytes are equal text. */
    if (bits & ((1U << (24 - 8 * size)) - 1))
        return -1;
    for (int at = 0; at < size; at++)
        three[at] = (unsigned char)(bits >> (16 - 8 * at));
    return size;
}

bool answer_bytes(const struct answer *answer, const char *name, void *data, size_t least, size_t most, size_t *size)
{
    size_t count;
    const char *from = answer_text(answer, name, &count);
    unsigned char *to = data;

    if (from == NULL || count % 4 != 0 || count / 4 > (most + 2) / 3)
        return false;
    *size = 0;
    for (size_t at = 0; at < count; at += 4) {
        unsigned char three[3];
        int some = decode_four(from + at, three);
        if (some < 0 || (some < 3 && at + 4 != count) || *size + (size_t)some > most)
            return false;
        memcpy(to + *size, three, (size_t)some);
        *size += (size_t)some;
    }
    return *size >= least;
}

void answer_error(const struct answer *answer, char *words, size_t limit)
{
    const char *from = value_of(answer, "error", false);
    size_t size = 0;

    while (from != NULL && *from && *from != '"' && size + 1 < limit) {
        char one = *from++;
        if (one == '\\') {
            one = *from ? *from++ : '?';
            /* Of the escapes only these stand for a character that a line may have. */
            if (strchr("\"\\/", one) == NULL) {
                for (int digits = one == 'u' ? 4 : 0; digits > 0 && *from && *from != '"'; digits--)
                    from++;
                one = '?';
            }
        }
        words[size++] = one;
    }
    words[size] = 0;
}
