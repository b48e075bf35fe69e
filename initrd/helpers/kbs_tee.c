/* SPDX-License-Identifier: Apache-2.0 */
/* A report of AMD SEV-SNP over the TPM's attestation key, as Linux gives it since 6.7. Spec-only: no such hardware was
 * there to try it on.
 *
 * Spec: Linux Documentation/ABI/testing/configfs-tsm and drivers/virt/coco/{tsm.c,sev-guest/sev-guest.c} 6.12;
 * AMD 56860 section 7.3 (ATTESTATION_REPORT); recipes/broker/protocol.py (what it is over). */
#include "kbs.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_PATH = 512,
    DATA_SIZE = 64,
    LABEL_SIZE = 32,
    DATA_OFFSET = 0x50,
    REPORT_SIZE = 1184,
};

static const char LABEL[LABEL_SIZE] = "goldsmith attestation key 2";
static const char FOLDER[] = "/sys/kernel/config/tsm/report";
/* The module's name, which the attribute ends with a line's end. */
static const char PROVIDER[] = "sev_guest";

static bool digest_key(const unsigned char *key, size_t size, unsigned char data[DATA_SIZE])
{
    memcpy(data, LABEL, LABEL_SIZE);
    return EVP_Digest(key, size, data + LABEL_SIZE, NULL, EVP_sha256(), NULL) == 1;
}

/* A word that an attribute holds, without its line's end. */
static bool read_word(const char *entry, const char *name, char word[32])
{
    size_t size;

    if (file_read(entry, name, word, 31, &size) != DONE)
        return false;
    word[size] = 0;
    word[strcspn(word, "\n")] = 0;
    return true;
}

/* An attribute is there or not: nothing is created. One that is binary takes its bytes when it is closed, and then has
 * no way to say that it did not like them. */
static bool write_attribute(const char *entry, const char *name, const void *data, size_t size)
{
    char path[MAX_PATH];

    if (snprintf(path, sizeof path, "%s/%s", entry, name) >= (int)sizeof path)
        return false;
    int file = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0)
        return false;
    bool fine = write(file, data, size) == (ssize_t)size;
    return close(file) == 0 && fine;
}

/* Where the kernel makes reports: a folder that is made there is one request. */
static int open_entry(const char *name, char entry[MAX_PATH])
{
    const char *folder = getenv("GOLDSMITH_TSM");

    if (folder == NULL)
        folder = FOLDER;
    if (snprintf(entry, MAX_PATH, "%s/goldsmith-%s", folder, name) >= MAX_PATH) {
        say("%s is too long a path", folder);
        return MALFORMED;
    }
    /* One that is there is of an earlier run that was ended; what is written to it makes a new report. */
    if (mkdir(entry, 0700) == 0 || errno == EEXIST)
        return DONE;
    int error = errno;
    say("%s: %s; a report is there in SEV-SNP guests with Linux 6.7 or later, configfs and sev-guest", folder,
        strerror(error));
    return error == ENOENT || error == ENXIO || error == EPERM || error == EACCES ? ABSENT : LATER;
}

/* A report is of VMPL 0 where no other is asked for, and a guest gets none of a level above its own. */
static int choose_level(const char *entry)
{
    char word[32];

    if (!read_word(entry, "provider", word) || strcmp(word, PROVIDER) != 0) {
        say("%s: the machine's reports are not those of SEV-SNP", entry);
        return ABSENT;
    }
    if (read_word(entry, "privlevel_floor", word) && strcmp(word, "0") != 0 &&
        !write_attribute(entry, "privlevel", word, strlen(word))) {
        say("%s/privlevel does not take '%s'", entry, word);
        return DENIED;
    }
    return DONE;
}

/* How it ends when the kernel, the host or the processor gives no report. */
static int judge_error(const char *entry, int error)
{
    bool busy = error == EAGAIN || error == EBUSY || error == EINTR || error == ETIMEDOUT || error == ENOMEM;

    say("%s/outblob: no report: %s; see the kernel log", entry, strerror(error));
    return busy ? LATER : DENIED;
}

static int ask(const char *entry, const unsigned char data[DATA_SIZE], struct report *report)
{
    if (!write_attribute(entry, "inblob", data, DATA_SIZE)) {
        say("%s/inblob cannot be written: %s", entry, strerror(errno));
        return DENIED;
    }
    errno = 0;
    if (file_read(entry, "outblob", report->data, sizeof report->data, &report->size) != DONE)
        return judge_error(entry, errno ? errno : EFBIG);
    /* A report of before, or of somebody else's request. */
    if (report->size != REPORT_SIZE || memcmp(report->data + DATA_OFFSET, data, DATA_SIZE) != 0) {
        say("%s/outblob: %zu bytes that are no report over the attestation key", entry, report->size);
        return DENIED;
    }
    /* The kernel has an error for no bytes, too. The broker says so if it wants more than it has. */
    if (file_read(entry, "auxblob", report->certificates, sizeof report->certificates, &report->certificates_size) !=
        DONE)
        report->certificates_size = 0;
    return DONE;
}

int snp_report(const char *entry, const unsigned char *key, size_t size, struct report *report)
{
    unsigned char data[DATA_SIZE];
    char path[MAX_PATH];

    if (!digest_key(key, size, data)) {
        say("the attestation key has no digest; see whether libcrypto has SHA-256");
        return DENIED;
    }
    int outcome = open_entry(entry, path);
    if (outcome != DONE)
        return outcome;
    outcome = choose_level(path);
    if (outcome == DONE)
        outcome = ask(path, data, report);
    rmdir(path);
    return outcome;
}
