/* SPDX-License-Identifier: Apache-2.0 */
/* The little of HTTP/1.1 that the protocol needs: a POST on a connection of its own, and an answer whose end is known
 * before its bytes are believed. Spec: RFC 9110, RFC 9112; RFC 3986 section 3.2 (authority of a URL). */
#include "kbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_HEAD = 8192, MAX_LINE = 1024 };

static const char DIGITS[] = "0123456789";
static const char NAME[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-";

/* Copies `size` characters that are all among `allowed`. */
static bool copy(char *to, size_t limit, const char *from, size_t size, const char *allowed)
{
    if (size == 0 || size >= limit || strspn(from, allowed) < size)
        return false;
    memcpy(to, from, size);
    to[size] = 0;
    return true;
}

/* True for what can only be an IPv4 address: the last label is a number. */
static bool is_numeric(const char *host)
{
    const char *last = strrchr(host, '.');

    last = last ? last + 1 : host;
    return last[strspn(last, DIGITS)] == 0;
}

static bool read_authority(struct url *url, const char *from, size_t size)
{
    struct address *address = &url->address;
    const char *host = from, *port;
    size_t length;

    if (*from == '[') {
        host++;
        length = strspn(host, "0123456789abcdefABCDEF:.");
        if (length + 2 > size || host[length] != ']')
            return false;
        port = host + length + 1;
        if (!copy(address->host, sizeof address->host, host, length, "0123456789abcdefABCDEF:."))
            return false;
        address->literal = true;
    } else {
        length = strcspn(host, ":/");
        port = host + length;
        if (!copy(address->host, sizeof address->host, host, length, NAME))
            return false;
        address->literal = is_numeric(address->host);
    }
    if (port == from + size)
        strcpy(address->port, "443");
    else if (*port != ':' ||
             !copy(address->port, sizeof address->port, port + 1, (size_t)(from + size - port - 1), DIGITS))
        return false;
    long number = strtol(address->port, NULL, 10);
    if (number < 1 || number > 65535 || size >= sizeof url->authority)
        return false;
    memcpy(url->authority, from, size);
    url->authority[size] = 0;
    return true;
}

int url_read(struct url *url, const char *text)
{
    static const char scheme[] = "https://";
    static const char path[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_~/";
    const char *from = text + sizeof scheme - 1;

    memset(url, 0, sizeof *url);
    if (strncmp(text, scheme, sizeof scheme - 1) == 0) {
        size_t size = strcspn(from, "/");
        const char *prefix = from + size;
        size_t rest = strlen(prefix);
        /* The paths of the protocol begin with a slash of their own. */
        while (rest > 0 && prefix[rest - 1] == '/')
            rest--;
        if (read_authority(url, from, size) &&
            (rest == 0 || copy(url->prefix, sizeof url->prefix, prefix, rest, path)))
            return DONE;
    }
    say("'%s' is no URL of a broker; write https://HOST, with :PORT and /PATH where it needs them", text);
    return MALFORMED;
}

/* Bytes of an answer as they come, never more of them than the caller wants to know about. */
struct reader {
    struct channel *channel;
    size_t at, size, head;
    unsigned char data[4096];
};

static int next_byte(struct reader *reader, char *byte)
{
    if (reader->at == reader->size) {
        reader->at = reader->size = 0;
        int outcome = channel_read(reader->channel, reader->data, sizeof reader->data, &reader->size);
        if (outcome != DONE)
            return outcome;
    }
    *byte = (char)reader->data[reader->at++];
    return DONE;
}

static int not_http(const char *what)
{
    say("the answer is not HTTP as the protocol has it: %s; is the URL a broker's?", what);
    return DENIED;
}

/* A line without its end. Lines of head, chunk sizes and trailers count against one limit. */
static int next_line(struct reader *reader, char line[MAX_LINE])
{
    for (size_t size = 0; size < MAX_LINE && reader->head < MAX_HEAD; size++, reader->head++) {
        int outcome = next_byte(reader, &line[size]);
        if (outcome != DONE)
            return outcome;
        if (line[size] == 0)
            return not_http("a zero byte in its head");
        if (line[size] == '\n') {
            if (size > 0 && line[size - 1] == '\r')
                size--;
            line[size] = 0;
            return DONE;
        }
    }
    return not_http("its head is too long");
}

/* Adds bytes to the answer. */
static int next_piece(struct reader *reader, struct answer *answer, size_t size)
{
    if (size > MAX_ANSWER - answer->size)
        return not_http("it is too long");
    for (; size > 0; size--) {
        int outcome = next_byte(reader, &answer->body[answer->size]);
        if (outcome != DONE)
            return outcome;
        answer->size++;
    }
    return DONE;
}

/* The number that is the whole of `text`, up to its end or `;`; -1 when it is none of at most eight digits. */
static long number_of(const char *text, int base)
{
    size_t size = strspn(text, base == 10 ? DIGITS : "0123456789abcdefABCDEF");

    if (size == 0 || size > 8 || (text[size] != 0 && (base == 10 || text[size] != ';')))
        return -1;
    return strtol(text, NULL, base);
}

/* Reads a body in chunks, and the trailers behind it. Spec: RFC 9112 section 7.1. */
static int read_chunks(struct reader *reader, struct answer *answer)
{
    char line[MAX_LINE] = "";
    long size;

    do {
        int outcome = next_line(reader, line);
        if (outcome != DONE)
            return outcome;
        size = number_of(line, 16);
        if (size < 0)
            return not_http("a chunk without a size");
        if (size == 0)
            break;
        outcome = next_piece(reader, answer, (size_t)size);
        if (outcome == DONE)
            outcome = next_line(reader, line);
        if (outcome != DONE)
            return outcome;
        if (line[0] != 0)
            return not_http("a chunk that is longer than its size");
    } while (size > 0);
    do {
        int outcome = next_line(reader, line);
        if (outcome != DONE)
            return outcome;
    } while (line[0] != 0);
    return DONE;
}

/* How the body ends: by a length, or in chunks. */
struct framing {
    long length;
    bool chunked;
};

/* Takes what matters from a line of the head; anything that could be read in two ways is refused. */
static bool read_field(const char *line, struct framing *framing)
{
    size_t name = strcspn(line, ":");
    const char *value = line + name;

    if (name == 0 || *value != ':' || strcspn(line, " \t") < name)
        return false;
    value++;
    value += strspn(value, " \t");
    if (name == 14 && strncasecmp(line, "content-length", name) == 0) {
        if (framing->length >= 0)
            return false;
        framing->length = number_of(value, 10);
        return framing->length >= 0;
    }
    if (name == 17 && strncasecmp(line, "transfer-encoding", name) == 0) {
        if (framing->chunked || strcasecmp(value, "chunked") != 0)
            return false;
        framing->chunked = true;
    }
    return true;
}

static int read_answer(struct reader *reader, struct answer *answer)
{
    struct framing framing = {.length = -1};
    char line[MAX_LINE] = "";
    int outcome = next_line(reader, line);

    if (outcome != DONE)
        return outcome;
    /* HTTP/1.x, a blank, three digits, then a blank and words or nothing. */
    if (strncmp(line, "HTTP/1.", 7) != 0 || strchr("01", line[7]) == NULL || line[7] == 0 || line[8] != ' ' ||
        strspn(line + 9, DIGITS) != 3 || (line[12] != ' ' && line[12] != 0))
        return not_http("no status line");
    answer->status = (int)strtol(line + 9, NULL, 10);
    for (;;) {
        outcome = next_line(reader, line);
        if (outcome != DONE)
            return outcome;
        if (line[0] == 0)
            break;
        if (!read_field(line, &framing))
            return not_http("a line in its head that is none, or that says where its body ends in a way not used here");
    }
    /* Where both are there, two programs may disagree about the end; where none is, a cut would go unseen. */
    if (framing.chunked == (framing.length >= 0))
        return not_http("it needs either a Content-Length or chunks");
    return framing.chunked ? read_chunks(reader, answer) : next_piece(reader, answer, (size_t)framing.length);
}

int http_post(const struct server *server, const struct url *url, const char *path, const struct text *body,
              struct answer *answer)
{
    char head[1024];
    struct channel channel;
    struct reader reader = {.channel = &channel};

    memset(answer, 0, sizeof *answer);
    int size = snprintf(head, sizeof head,
                        "POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                        "Connection: close\r\n\r\n",
                        url->prefix, path, url->authority, body->size);
    if (size < 0 || (size_t)size >= sizeof head)
        return MALFORMED;
    int outcome = channel_open(&channel, server);
    if (outcome != DONE)
        return outcome;
    outcome = channel_write(&channel, head, (size_t)size);
    if (outcome == DONE)
        outcome = channel_write(&channel, body->data, body->size);
    if (outcome == DONE)
        outcome = read_answer(&reader, answer);
    channel_close(&channel);
    answer->body[answer->size] = 0;
    return outcome;
}
