/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.2 or later to a server that one pinned certificate vouches for, each step before a deadline.
 *
 * The pinned certificate is all the trust there is: no store of the system, no configuration file. The name server and
 * everything between here and there may be the host's; whoever answers has to show a certificate for the host of the
 * URL. The clock is the host's too. It is compared with the certificate's dates because a slip in either should be
 * seen, but a host that sets the clock back makes an expired certificate valid again: what ends the trust in a leaked
 * server key is an image with another CA. */
#include "kbs.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Ours: an address that does not answer must leave time for the next one. */
enum { CONNECT_MS = 5000, MAX_DEPTH = 4 };

static int no_password(char *buffer, int size, int writing, void *data)
{
    (void)buffer, (void)size, (void)writing, (void)data;
    return -1;
}

/* The one certificate of a PEM file. */
static X509 *read_authority(const char *path)
{
    BIO *file = BIO_new_file(path, "r");
    X509 *first = file ? PEM_read_bio_X509(file, NULL, no_password, NULL) : NULL;

    if (first == NULL) {
        say("%s is no certificate in PEM; put the broker's CA there", path);
    } else {
        ERR_clear_error();
        X509 *second = PEM_read_bio_X509(file, NULL, no_password, NULL);
        if (second != NULL || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
            say("%s has more than one certificate; exactly one is pinned", path);
            X509_free(first);
            first = NULL;
        }
        X509_free(second);
    }
    BIO_free(file);
    ERR_clear_error();
    return first;
}

static SSL_CTX *make_context(X509 *authority)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    if (context == NULL)
        return NULL;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_verify_depth(context, MAX_DEPTH);
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    /* The pinned one is where a chain may end, whoever signed it in turn. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
        X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority) == 1)
        return context;
    SSL_CTX_free(context);
    return NULL;
}

/* getaddrinfo() has no time limit of its own, and no way to be given up but this. */
static void end_lookup(int number)
{
    static const char words[] = "the name of the broker was not found in time; see whether the name server answers\n";

    (void)number;
    (void)!write(STDERR_FILENO, words, sizeof words - 1);
    _exit(LATER);
}

static int look_up(struct server *server)
{
    const struct address *address = &server->address;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct sigaction action = {.sa_handler = end_lookup};

    if (address->literal)
        hints.ai_flags |= AI_NUMERICHOST;
    sigaction(SIGALRM, &action, NULL);
    alarm((unsigned)left_ms(server->deadline) / 1000 + 1);
    int error = getaddrinfo(address->host, address->port, &hints, &server->found);
    alarm(0);
    if (error == 0)
        return DONE;
    server->found = NULL;
    if (address->literal) {
        say("%s is no address; write the host of the URL as a name, an IPv4 address or [IPv6]", address->host);
        return MALFORMED;
    }
    say("the name %s is not found: %s; is there a name server? A fixed NETWORK has none, give an address then",
        address->host, gai_strerror(error));
    return LATER;
}

int server_open(struct server *server, const char *authority)
{
    /* No configuration file: what an image pins must not depend on one that it happens to contain. */
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    X509 *pinned = read_authority(authority);
    if (pinned == NULL)
        return MALFORMED;
    server->context = make_context(pinned);
    X509_free(pinned);
    if (server->context == NULL) {
        say("%s cannot be pinned; give a certificate with a key that TLS accepts", authority);
        return MALFORMED;
    }
    return look_up(server);
}

void server_close(struct server *server)
{
    if (server->found != NULL)
        freeaddrinfo(server->found);
    SSL_CTX_free(server->context);
}

/* Waits until a socket is ready; false when the deadline is over. */
static bool wait_until(int file, short events, int64_t deadline)
{
    struct pollfd watched = {.fd = file, .events = events};
    int ready, left;

    /* What is ready after the deadline is late too, or a byte at a time would move it. */
    do {
        left = left_ms(deadline);
        ready = left > 0 ? poll(&watched, 1, left) : 0;
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

/* A connected socket, or -1 with errno. */
static int connect_one(const struct addrinfo *to, int64_t deadline)
{
    int file = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = 0, one = 1;
    socklen_t size = sizeof error;

    if (file < 0)
        return -1;
    if (connect(file, to->ai_addr, to->ai_addrlen) != 0) {
        if (errno != EINPROGRESS)
            error = errno;
        else if (!wait_until(file, POLLOUT, deadline))
            error = ETIMEDOUT;
        else if (getsockopt(file, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
            error = errno;
    }
    if (error == 0) {
        setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return file;
    }
    close(file);
    errno = error;
    return -1;
}

static int out_of_time(const struct channel *channel)
{
    say("%s %s took too long; see whether the broker and the network are well", channel->doing,
        channel->server->address.host);
    return LATER;
}

static int connect_any(struct channel *channel)
{
    const struct server *server = channel->server;
    int error = 0;

    for (const struct addrinfo *to = server->found; to != NULL; to = to->ai_next) {
        int64_t deadline = now_ms() + CONNECT_MS;
        if (deadline > server->deadline)
            deadline = server->deadline;
        channel->file = connect_one(to, deadline);
        if (channel->file >= 0)
            return DONE;
        error = errno;
    }
    say("no connection to %s port %s: %s; see whether the broker runs and the network reaches it", server->address.host,
        server->address.port, strerror(error));
    return LATER;
}

/* Why a certificate is not accepted. */
static int judge_certificate(const char *host, long result)
{
    char date[32] = "unknown";
    time_t now = time(NULL);
    struct tm parts;

    if (gmtime_r(&now, &parts) != NULL)
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S UTC", &parts);
    switch (result) {
    case X509_V_ERR_CERT_NOT_YET_VALID:
        say("the certificate of %s is not yet valid: the machine's clock says %s; set the clock", host, date);
        break;
    case X509_V_ERR_CERT_HAS_EXPIRED:
        say("the certificate of %s has expired: the machine's clock says %s; set the clock, or renew it", host, date);
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        say("the certificate of %s is for another name; give the broker one for the host of the URL", host);
        break;
    default:
        say("the certificate of %s is not from the pinned CA: %s", host, X509_verify_cert_error_string(result));
    }
    return DENIED;
}

/* What a call of libssl that did not succeed means; DONE when it is to be made again. */
static int judge_call(const struct channel *channel, int returned)
{
    int error = SSL_get_error(channel->tls, returned);
    unsigned long detail = ERR_peek_last_error();
    const char *reason = detail ? ERR_reason_error_string(detail) : NULL;

    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        short events = error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
        return wait_until(channel->file, events, channel->server->deadline) ? DONE : out_of_time(channel);
    }
    if (error == SSL_ERROR_SYSCALL && errno != 0)
        reason = strerror(errno);
    if (error == SSL_ERROR_ZERO_RETURN || reason == NULL)
        reason = "the other side ended it";
    say("%s %s failed: %s; see the broker's log", channel->doing, channel->server->address.host, reason);
    return LATER;
}

static int shake_hands(struct channel *channel)
{
    const struct address *address = &channel->server->address;
    X509_VERIFY_PARAM *check;

    channel->tls = SSL_new(channel->server->context);
    if (channel->tls == NULL || SSL_set_fd(channel->tls, channel->file) != 1)
        return LATER;
    check = SSL_get0_param(channel->tls);
    X509_VERIFY_PARAM_set_hostflags(check, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (address->literal ? X509_VERIFY_PARAM_set1_ip_asc(check, address->host) != 1
                         : X509_VERIFY_PARAM_set1_host(check, address->host, 0) != 1 ||
                               SSL_set_tlsext_host_name(channel->tls, address->host) != 1) {
        say("%s cannot be compared with a certificate; give another host in the URL", address->host);
        return MALFORMED;
    }
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int returned = SSL_connect(channel->tls);
        if (returned == 1)
            return DONE;
        long result = SSL_get_verify_result(channel->tls);
        if (result != X509_V_OK)
            return judge_certificate(address->host, result);
        int outcome = judge_call(channel, returned);
        if (outcome != DONE)
            return outcome;
    }
}

int channel_open(struct channel *channel, const struct server *server)
{
    *channel = (struct channel){.server = server, .file = -1, .doing = "the TLS handshake with"};
    int outcome = connect_any(channel);
    if (outcome == DONE)
        outcome = shake_hands(channel);
    if (outcome != DONE)
        channel_close(channel);
    return outcome;
}

int channel_write(struct channel *channel, const void *data, size_t size)
{
    channel->doing = "the request to";
    for (;;) {
        size_t written;
        ERR_clear_error();
        errno = 0;
        int returned = SSL_write_ex(channel->tls, data, size, &written);
        /* It writes all or nothing, and is called again with the same arguments. */
        if (returned == 1)
            return DONE;
        int outcome = judge_call(channel, returned);
        if (outcome != DONE)
            return outcome;
    }
}

int channel_read(struct channel *channel, void *data, size_t limit, size_t *size)
{
    channel->doing = "the answer of";
    for (;;) {
        ERR_clear_error();
        errno = 0;
        int returned = SSL_read_ex(channel->tls, data, limit, size);
        if (returned == 1)
            return DONE;
        int outcome = judge_call(channel, returned);
        if (outcome != DONE)
            return outcome;
    }
}

void channel_close(struct channel *channel)
{
    SSL_free(channel->tls);
    if (channel->file >= 0)
        close(channel->file);
    channel->tls = NULL;
    channel->file = -1;
}
