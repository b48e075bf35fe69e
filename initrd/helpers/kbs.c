/* SPDX-License-Identifier: Apache-2.0 */
/*: sources kbs_crypto.c kbs_guest.c kbs_http.c kbs_session.c kbs_tee.c kbs_text.c kbs_tls.c process.c */
/*: libraries ssl crypto */
/* kbs URL CA_FILE VOLUME MACHINE FOLDER [activate|snp]: gets a volume's key from a broker; recipes/broker/protocol.py is
 * what they say to each other.
 *
 *   URL      https://HOST[:PORT][/PATH]
 *   CA_FILE  the one certificate in PEM that vouches for the broker
 *   VOLUME   its name at the broker
 *   MACHINE  the machine of the golden manifest that this one is, or nothing
 *   FOLDER   where the helper tpm2 puts its files
 *   activate prove the attestation key by the TPM's endorsement certificate, for a broker that wants it so
 *   snp      prove it by a report of AMD SEV-SNP, for a broker that wants that; spec-only
 *
 * The key goes to descriptor 3, words for people to standard error. Ends as a provider of initrd/unlock does: 0 the key
 * is there, 10 not now, 20 denied or an answer that is not to be believed, 30 no TPM or no event log, 40 a mistake in
 * the configuration. GOLDSMITH_TIMEOUT is the seconds it may take; GOLDSMITH_LIB, GOLDSMITH_EVENT_LOG,
 * GOLDSMITH_MEASURE_LOG and GOLDSMITH_TSM put other paths in the place of those that an image has. */
#include "kbs.h"
#include "process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_FILE = 3, TIMEOUT = 20, MAX_TIMEOUT = 3600 };

static int read_arguments(struct request *request, int count, char **arguments)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

    request->activate = count == 7 && strcmp(arguments[6], "activate") == 0;
    request->snp = count == 7 && strcmp(arguments[6], "snp") == 0;
    if (count != 6 && !request->activate && !request->snp) {
        say("wrong use; kbs URL CA_FILE VOLUME MACHINE FOLDER [activate|snp]");
        return MALFORMED;
    }
    request->volume = arguments[3];
    request->machine = arguments[4];
    request->folder = arguments[5];
    size_t size = strlen(request->volume);
    if (size < 1 || size > MAX_VOLUME || strspn(request->volume, allowed) < size || strchr("._-", request->volume[0])) {
        say("'%s' is no volume's name; use letters, digits, '.', '_' and '-'", request->volume);
        return MALFORMED;
    }
    size = strlen(request->machine);
    for (size_t at = 0; at < size; at++)
        if (request->machine[at] < ' ' || request->machine[at] > '~')
            size = MAX_MACHINE + 1;
    if (size > MAX_MACHINE) {
        say("the machine's name is not at most %d plain characters", MAX_MACHINE);
        return MALFORMED;
    }
    return url_read(&request->url, arguments[1]);
}

/* Seconds for all of it. */
static long timeout(void)
{
    const char *text = getenv("GOLDSMITH_TIMEOUT");
    char *end;
    long seconds = text ? strtol(text, &end, 10) : TIMEOUT;

    return text && (*end != 0 || seconds < 1 || seconds > MAX_TIMEOUT) ? TIMEOUT : seconds;
}

int main(int count, char **arguments)
{
    static struct request request;

    keep_private();
    signal(SIGPIPE, SIG_IGN);
    /* Checked before anything is opened, or that would be descriptor 3. A child must not have it. */
    if (fcntl(KEY_FILE, F_SETFD, FD_CLOEXEC) != 0) {
        say("descriptor 3, where the key goes, is not open");
        return MALFORMED;
    }
    int outcome = read_arguments(&request, count, arguments);
    if (outcome != DONE)
        return outcome;
    request.server.address = request.url.address;
    request.server.deadline = now_ms() + timeout() * 1000;
    outcome = server_open(&request.server, arguments[2]);
    if (outcome == DONE)
        outcome = release(&request, KEY_FILE);
    server_close(&request.server);
    return outcome;
}
