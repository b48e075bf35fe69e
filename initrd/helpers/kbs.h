/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of `kbs` share: how it ends, its clock, and what each part does for the others. */
#ifndef KBS_H
#define KBS_H

/* Before any header of the system: POSIX and Linux functions besides those of C11. */
#define _GNU_SOURCE 1

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* How a function ends that can fail, and how the program does: what initrd/unlock makes of a provider's exit code. */
enum outcome {
    DONE = 0,
    LATER = 10,
    DENIED = 20,
    ABSENT = 30,
    MALFORMED = 40,
};

/* Bounds of the protocol, recipes/broker/protocol.py. */
enum {
    SESSION_SIZE = 32,
    NONCE_SIZE = 32,
    POINT_SIZE = 65,
    DIGEST_SIZE = 32,
    TAG_SIZE = 16,
    KEY_MIN = 32,
    KEY_MAX = 512,
    MAX_VOLUME = 64,
    MAX_MACHINE = 128,
    MAX_BODY = 640 * 1024,
    MAX_EVENT_LOG = 256 * 1024,
    MAX_MEASURE_LOG = 64 * 1024,
    MAX_CERTIFICATES = 4,
    MAX_CERTIFICATE = 4096,
    MAX_EVIDENCE = 4096,
    MAX_REPORT = 4096,
    MAX_REPORT_CERTIFICATES = 16 * 1024,
};

/* Ours: the longest answer is a refusal, 600 characters that JSON may write with six each. */
enum { MAX_ANSWER = 16 * 1024 };

/* Milliseconds on a clock that nobody sets. */
static inline int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds until a deadline, as poll() takes them; 0 when it is over. */
static inline int left_ms(int64_t deadline)
{
    int64_t left = deadline - now_ms();

    return left <= 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
}

/* kbs_text.c: words for people, and text for machines. */

/* A line on standard error, plain characters only; a long one is folded, because the driver cuts lines. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* A request that grows in a fixed buffer; `full` once something did not fit. */
struct text {
    char *data;
    size_t size, limit;
    bool full;
};

void text_add(struct text *text, const char *words);
/* `words` as the inside of a JSON string; they are printable ASCII. */
void text_add_escaped(struct text *text, const char *words);
void text_add_base64(struct text *text, const void *data, size_t size);
/* `,"name":"base64"`. */
void text_add_field(struct text *text, const char *name, const void *data, size_t size);
/* Hex of `size` bytes, with a zero byte behind it. */
void to_hex(const unsigned char *data, size_t size, char *hex);

/* An answer. */
struct answer {
    int status;
    size_t size;
    char body[MAX_ANSWER + 1];
};

/* True for one line of plain ASCII with an object of this schema, which is the form of every answer. */
bool answer_is_plain(struct answer *answer);
/* What stands between `"name":"` and the next `"`; NULL when that is not there exactly once. */
const char *answer_text(const struct answer *answer, const char *name, size_t *size);
/* The same as bytes; false when it is no base64 in its one spelling, or of a size outside the bounds. */
bool answer_bytes(const struct answer *answer, const char *name, void *data, size_t least, size_t most, size_t *size);
/* The value of "error" with its escapes undone, cut to `limit`; empty when there is none. */
void answer_error(const struct answer *answer, char *words, size_t limit);

/* kbs_tls.c: a connection to the one server that is believed. */

struct address {
    char host[256];
    char port[6];
    bool literal;
};

struct addrinfo;

struct server {
    struct address address;
    int64_t deadline;
    SSL_CTX *context;
    struct addrinfo *found;
};

struct channel {
    const struct server *server;
    int file;
    SSL *tls;
    const char *doing;
};

/* Reads the pinned CA and looks the server's name up. `server` is zeros but for address and deadline. */
int server_open(struct server *server, const char *authority);
void server_close(struct server *server);
int channel_open(struct channel *channel, const struct server *server);
int channel_write(struct channel *channel, const void *data, size_t size);
/* At least one byte, or an outcome that is not DONE; the end of the connection is LATER. */
int channel_read(struct channel *channel, void *data, size_t limit, size_t *size);
void channel_close(struct channel *channel);

/* kbs_http.c: requests and answers. */

struct url {
    struct address address;
    char authority[300];
    char prefix[128];
};

int url_read(struct url *url, const char *text);
int http_post(const struct server *server, const struct url *url, const char *path, const struct text *body,
              struct answer *answer);

/* kbs_crypto.c: one key pair for one request, and what the answer to it hides. */

EVP_PKEY *ephemeral_new(unsigned char point[POINT_SIZE]);
/* SHA-256(nonce || point || volume), which the quote signs as extraData. */
int bind_quote(const unsigned char nonce[NONCE_SIZE], const unsigned char point[POINT_SIZE], const char *volume,
               unsigned char digest[DIGEST_SIZE]);

struct sealed {
    const char *session, *volume;
    const unsigned char *nonce, *mine, *theirs, *data;
    size_t size;
};

/* Decrypts `size - TAG_SIZE` bytes to `key`; false, with zeros there, when it is not for this request. */
bool unseal(EVP_PKEY *own, const struct sealed *sealed, unsigned char *key);

/* kbs_session.c: the whole protocol. */

/* What to ask for, and of whom; what vouches for the attestation key where the broker does not know it. */
struct request {
    const char *volume, *machine, *folder;
    bool activate, snp;
    struct url url;
    struct server server;
};

/* Asks for the key, twice where the broker forgot the session, and writes it to descriptor `file`. */
int release(struct request *request, int file);

/* kbs_guest.c: the machine's side: its files and its TPM. */

/* A file of at most `limit` bytes; ABSENT when it is not there. Says nothing. */
int file_read(const char *folder, const char *name, void *data, size_t limit, size_t *size);
int file_write(const char *folder, const char *name, const void *data, size_t size);
/* Runs the helper `tpm2` with these arguments; ends with its exit code, if it is an outcome. */
int tpm2_run(int64_t deadline, const char *const arguments[]);
/* Splits certificates in DER that stand one after the other; 0 when the first is none. */
size_t certificates_split(const unsigned char *data, size_t size, const unsigned char *parts[], size_t sizes[]);

/* kbs_tee.c: the word of the machine's processor. */

/* A report, and the certificates that the host has for it; no bytes of these where it has none. */
struct report {
    unsigned char data[MAX_REPORT], certificates[MAX_REPORT_CERTIFICATES];
    size_t size, certificates_size;
};

/* A report of AMD SEV-SNP over an attestation key, its TPM2B_PUBLIC. `entry` is a name for what asks. */
int snp_report(const char *entry, const unsigned char *key, size_t size, struct report *report);

#endif
