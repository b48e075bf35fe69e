/* SPDX-License-Identifier: Apache-2.0 */
/* One request for a key: challenge, quote, attest. Spec: recipes/broker/protocol.py. */
#include "kbs.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SELECTION = 128, MAX_ACTIVATION = 64 };

static const char EVENT_LOG[] = "/sys/kernel/security/tpm0/binary_bios_measurements";
static const char MEASURE_LOG[] = "/run/log/systemd/tpm2-measure.log";

/* One try: everything that a session has. Static, because it is large; nothing in it is secret but the key pair. */
static struct {
    char session[SESSION_SIZE + 1], selection[MAX_SELECTION + 1];
    unsigned char nonce[NONCE_SIZE], point[POINT_SIZE], ak[MAX_EVIDENCE], activation[MAX_ACTIVATION];
    size_t ak_size, activation_size;
    EVP_PKEY *own;
} current;

static struct report report;
static struct answer answer;
static char body_data[MAX_BODY];
static struct text body;

/* A session that the broker does not know any more: the guest begins again. */
enum { BEGIN_AGAIN = -1 };

static void begin_body(void)
{
    body = (struct text){.data = body_data, .limit = sizeof body_data};
    text_add(&body, "{\"schema\":1");
}

static void add_words(const char *name, const char *words)
{
    text_add(&body, ",\"");
    text_add(&body, name);
    text_add(&body, "\":\"");
    text_add_escaped(&body, words);
    text_add(&body, "\"");
}

static int bad_answer(const char *path, const char *what)
{
    say("the answer to %s is not as the protocol has it: %s; is the URL a broker's?", path, what);
    return DENIED;
}

/* What the guest does about a refusal. */
static int judge_refusal(void)
{
    char words[1024];

    answer_error(&answer, words, sizeof words);
    say("the broker answers %d: %s", answer.status, words[0] ? words : "without a reason");
    if (answer.status == 403 && strncmp(words, "ak: ", 4) == 0 && current.ak_size > 0) {
        char line[2048];
        struct text key = {.data = line, .limit = sizeof line};
        text_add(&key, "attestation key: ");
        text_add_base64(&key, current.ak, current.ak_size);
        /* In one piece, so that it can be copied from a log and enrolled. */
        fprintf(stderr, "%s\n", line);
    }
    switch (answer.status) {
    case 400:
    case 413:
        return MALFORMED;
    case 401:
        return BEGIN_AGAIN;
    case 408:
    case 429:
        return LATER;
    }
    return answer.status >= 500 && answer.status <= 599 ? LATER : DENIED;
}

/* Sends the body that was put together; DONE with a plain answer of status 200. */
static int post(struct request *request, const char *path)
{
    text_add(&body, "}");
    if (body.full) {
        say("the request to %s would be longer than %d bytes", path, MAX_BODY);
        return DENIED;
    }
    int outcome = http_post(&request->server, &request->url, path, &body, &answer);
    if (outcome != DONE)
        return outcome;
    if (answer.status != 200)
        return judge_refusal();
    return answer_is_plain(&answer) ? DONE : bad_answer(path, "it is not one line of JSON with schema 1");
}

/* A text of the answer, of bounded length, all of it among `allowed`. */
static bool take_text(const char *name, char *to, size_t least, size_t most, const char *allowed)
{
    size_t size;
    const char *from = answer_text(&answer, name, &size);

    if (from == NULL || size < least || size > most || strspn(from, allowed) < size)
        return false;
    memcpy(to, from, size);
    to[size] = 0;
    return true;
}

static int challenge(struct request *request)
{
    static const char path[] = "/v1/challenge";
    size_t size;

    begin_body();
    add_words("volume", request->volume);
    if (request->machine[0])
        add_words("machine", request->machine);
    int outcome = post(request, path);
    if (outcome != DONE)
        return outcome;
    if (!take_text("session", current.session, SESSION_SIZE, SESSION_SIZE, "0123456789abcdef"))
        return bad_answer(path, "session is not 32 hexadecimal digits");
    if (!answer_bytes(&answer, "nonce", current.nonce, NONCE_SIZE, NONCE_SIZE, &size))
        return bad_answer(path, "nonce is not 32 bytes in base64");
    if (!take_text("selection", current.selection, 1, MAX_SELECTION, "abcdefghijklmnopqrstuvwxyz0123456789_:,+") ||
        strcspn(current.selection, ":") == 0)
        return bad_answer(path, "selection is no list of registers");
    return DONE;
}

/* A file that the helper tpm2 has just written. */
static int read_evidence(const struct request *request, const char *name, void *data, size_t limit, size_t *size)
{
    int outcome = file_read(request->folder, name, data, limit, size);

    if (outcome == DONE && *size > 0)
        return DONE;
    say("%s/%s cannot be read, is empty, or is longer than %zu bytes", request->folder, name, limit);
    return outcome == MALFORMED ? MALFORMED : DENIED;
}

static int quote(const struct request *request)
{
    unsigned char bound[DIGEST_SIZE];
    char hex[2 * DIGEST_SIZE + 1];

    current.own = ephemeral_new(current.point);
    if (current.own == NULL || bind_quote(current.nonce, current.point, request->volume, bound) != DONE) {
        say("no key pair could be made; see whether libcrypto has P-256 and SHA-256");
        return DENIED;
    }
    to_hex(bound, sizeof bound, hex);
    const char *const arguments[] = {"quote", current.selection, hex, request->folder, NULL};
    int outcome = tpm2_run(request->server.deadline, arguments);
    if (outcome != DONE)
        return outcome;
    return read_evidence(request, "ak_public", current.ak, sizeof current.ak, &current.ak_size);
}

/* Lets the broker make a credential for the endorsement key, and the TPM open it. */
static int activate(struct request *request)
{
    static const char path[] = "/v1/activate";
    static unsigned char certificates[MAX_CERTIFICATES * MAX_CERTIFICATE], credential[MAX_EVIDENCE];
    const char *const ek[] = {"ek", request->folder, NULL}, *const open[] = {"activate", request->folder, NULL};
    const unsigned char *parts[MAX_CERTIFICATES];
    size_t size, sizes[MAX_CERTIFICATES];

    int outcome = tpm2_run(request->server.deadline, ek);
    if (outcome == DONE)
        outcome = read_evidence(request, "ek_certificate", certificates, sizeof certificates, &size);
    if (outcome != DONE)
        return outcome;
    size_t count = certificates_split(certificates, size, parts, sizes);
    if (count == 0) {
        say("the TPM's endorsement certificate is none in DER; enrol the attestation key at the broker instead");
        return DENIED;
    }
    begin_body();
    add_words("session", current.session);
    text_add_field(&body, "ak_public", current.ak, current.ak_size);
    text_add(&body, ",\"ek_certificates\":[");
    for (size_t at = 0; at < count; at++) {
        text_add(&body, at ? ",\"" : "\"");
        text_add_base64(&body, parts[at], sizes[at]);
        text_add(&body, "\"");
    }
    text_add(&body, "]");
    outcome = post(request, path);
    if (outcome != DONE)
        return outcome;
    if (!answer_bytes(&answer, "credential", credential, 1, sizeof credential, &size))
        return bad_answer(path, "credential is no base64");
    if (file_write(request->folder, "credential", credential, size) != DONE) {
        say("%s/credential cannot be written: %s", request->folder, strerror(errno));
        return DENIED;
    }
    outcome = tpm2_run(request->server.deadline, open);
    if (outcome != DONE)
        return outcome;
    return read_evidence(request, "activation", current.activation, sizeof current.activation,
                         &current.activation_size);
}

/* The path of a log, which a test may have put somewhere else. */
static const char *place(const char *variable, const char *usual)
{
    const char *found = getenv(variable);

    return found ? found : usual;
}

static int add_logs(void)
{
    static unsigned char log[MAX_EVENT_LOG];
    size_t size;
    const char *path = place("GOLDSMITH_EVENT_LOG", EVENT_LOG);
    int outcome = file_read(path, NULL, log, sizeof log, &size);

    if (outcome == ABSENT || (outcome == DONE && size == 0)) {
        say("%s: the firmware left no event log; boot with firmware that measures, and mount securityfs", path);
        return ABSENT;
    }
    if (outcome != DONE) {
        say("%s cannot be read, or is longer than %d bytes", path, MAX_EVENT_LOG);
        return DENIED;
    }
    text_add_field(&body, "event_log", log, size);
    path = place("GOLDSMITH_MEASURE_LOG", MEASURE_LOG);
    outcome = file_read(path, NULL, log, MAX_MEASURE_LOG, &size);
    if (outcome == DONE && size > 0)
        text_add_field(&body, "measure_log", log, size);
    if (outcome == DONE || outcome == ABSENT)
        return DONE;
    say("%s cannot be read, or is longer than %d bytes", path, MAX_MEASURE_LOG);
    return DENIED;
}

/* Writes the key where the driver wants it. */
static int deliver(int file, const unsigned char *key, size_t size)
{
    while (size > 0) {
        ssize_t some = write(file, key, size);
        if (some < 0 && errno == EINTR)
            continue;
        if (some <= 0) {
            say("the key cannot be written to descriptor %d: %s", file, strerror(errno));
            return LATER;
        }
        key += some;
        size -= (size_t)some;
    }
    return DONE;
}

static int open_answer(const struct request *request, const char *path, int file)
{
    unsigned char theirs[POINT_SIZE], data[KEY_MAX + TAG_SIZE], key[KEY_MAX];
    size_t size;

    if (!answer_bytes(&answer, "ephemeral", theirs, POINT_SIZE, POINT_SIZE, &size))
        return bad_answer(path, "ephemeral is not 65 bytes in base64");
    if (!answer_bytes(&answer, "key", data, KEY_MIN + TAG_SIZE, sizeof data, &size))
        return bad_answer(path, "key is no base64 of 48 to 528 bytes");
    struct sealed sealed = {
        .session = current.session,
        .volume = request->volume,
        .nonce = current.nonce,
        .mine = current.point,
        .theirs = theirs,
        .data = data,
        .size = size,
    };
    int outcome = unseal(current.own, &sealed, key) ? deliver(file, key, size - TAG_SIZE)
                                                : bad_answer(path, "the key is not encrypted for this request");
    explicit_bzero(key, sizeof key);
    return outcome;
}

static int attest(struct request *request, int file)
{
    static const char path[] = "/v1/attest";
    static unsigned char evidence[MAX_EVIDENCE];
    size_t size;

    begin_body();
    add_words("session", current.session);
    for (int at = 0; at < 2; at++) {
        const char *name = at ? "signature" : "quote";
        int outcome = read_evidence(request, name, evidence, sizeof evidence, &size);
        if (outcome != DONE)
            return outcome;
        text_add_field(&body, name, evidence, size);
    }
    text_add_field(&body, "ak_public", current.ak, current.ak_size);
    int outcome = add_logs();
    if (outcome != DONE)
        return outcome;
    text_add_field(&body, "ephemeral", current.point, sizeof current.point);
    if (current.activation_size > 0)
        text_add_field(&body, "activation", current.activation, current.activation_size);
    if (report.size > 0)
        text_add_field(&body, "report", report.data, report.size);
    if (report.certificates_size > 0)
        text_add_field(&body, "report_certificates", report.certificates, report.certificates_size);
    outcome = post(request, path);
    return outcome == DONE ? open_answer(request, path, file) : outcome;
}

static int try_once(struct request *request, int file)
{
    memset(&current, 0, sizeof current);
    memset(&report, 0, sizeof report);
    int outcome = challenge(request);
    if (outcome == DONE)
        outcome = quote(request);
    if (outcome == DONE && request->activate)
        outcome = activate(request);
    if (outcome == DONE && request->snp)
        outcome = snp_report(request->volume, current.ak, current.ak_size, &report);
    if (outcome == DONE)
        outcome = attest(request, file);
    EVP_PKEY_free(current.own);
    explicit_bzero(&current, sizeof current);
    return outcome;
}

int release(struct request *request, int file)
{
    int outcome = try_once(request, file);

    if (outcome == BEGIN_AGAIN)
        outcome = try_once(request, file);
    if (outcome != BEGIN_AGAIN)
        return outcome;
    say("the broker forgot the session twice; see whether two brokers answer at the URL");
    return LATER;
}
