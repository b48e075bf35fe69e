/* SPDX-License-Identifier: Apache-2.0 */
/*: sources process.c sha256.c */
/*
 * dmtable create NAME [ro]   makes the mapped device NAME from the table on standard input, and /dev/mapper/NAME
 * dmtable remove NAME        removes both
 *
 * Each line of a table is `START LENGTH TARGET PARAMETERS`, in sectors of 512 bytes. A `@KEY@` among the parameters
 * stands for all bytes of descriptor 3 in hex: a key is then in no argument and in no shell variable. `@KEY:CONTENT@`,
 * with 64 hexadecimal digits, stands for as many bytes that follow from the key for this content alone (HKDF-SHA256 of
 * the key, with a text of ours and the digits as info). Ends with 0, or with 1 and one line on standard error.
 *
 * Spec: Linux include/uapi/linux/dm-ioctl.h; Documentation/admin-guide/device-mapper for the targets; RFC 5869.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "process.h"
#include "sha256.h"

#define CONTROL "/dev/mapper/control"
#define MARK "@KEY"
#define CONTENT_DIGITS 64
/* Changes when the derivation does; the builder has it too (recipes/steps/encrypted.py). */
#define PURPOSE "goldsmith content key 1 "
#define KEY_FD 3
/* A key of several ciphers with integrity has less than 256 bytes. */
#define KEY_MAX 512
#define TABLE_MAX 16384
#define BODY_MAX 65536
/* The first version that wipes its own copy of a table on request (DM_SECURE_DATA_FLAG). */
#define WANT_MAJOR 4
#define WANT_MINOR 20

/* One request to the kernel; the table follows the head. */
static struct {
	struct dm_ioctl head;
	char body[BODY_MAX];
} request;
_Static_assert(offsetof(__typeof__(request), body) % 8 == 0, "the kernel wants targets at multiples of 8");
_Static_assert(sizeof(struct dm_target_spec) % 8 == 0, "parameters follow a target without a gap");

static size_t used; /* of the body */
static uint32_t targets;
static unsigned char key[KEY_MAX + 1];
static size_t key_size;
static char table[TABLE_MAX + 1];

/* Always false, for callers to pass on. */
__attribute__((format(printf, 1, 2))) static int fail(const char *format, ...)
{
	va_list values;

	fputs("dmtable: ", stderr);
	va_start(values, format);
	vfprintf(stderr, format, values);
	va_end(values);
	fputc('\n', stderr);
	return 0;
}

/* Bytes up to the end of a file, `size` of them at most; -1 after an error. */
static ssize_t read_all(int fd, void *buffer, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t got = read(fd, (char *)buffer + done, size - done);

		if (got == 0)
			break;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

static int read_key(void)
{
	ssize_t size = read_all(KEY_FD, key, sizeof key);

	if (size < 0)
		return fail("descriptor %d: %s", KEY_FD, strerror(errno));
	if (size == 0 || size > KEY_MAX)
		return fail("descriptor %d has %s, and the table wants a key of 1 to %d bytes", KEY_FD,
			    size ? "more" : "nothing", KEY_MAX);
	key_size = (size_t)size;
	return 1;
}

static int add(const char *bytes, size_t size)
{
	if (size > BODY_MAX - used)
		return fail("the table is too long");
	memcpy(request.body + used, bytes, size);
	used += size;
	return 1;
}

static const char digits[] = "0123456789abcdef";

/* The key, or what follows from it for a content of `size` digits. */
static int add_key(const char *content, size_t size)
{
	unsigned char bytes[KEY_MAX];
	char info[sizeof PURPOSE - 1 + CONTENT_DIGITS];

	if (key_size == 0 && !read_key())
		return 0;
	if (key_size * 2 > BODY_MAX - used)
		return fail("the table is too long");
	memcpy(bytes, key, key_size);
	if (size) {
		memcpy(info, PURPOSE, sizeof PURPOSE - 1);
		memcpy(info + sizeof PURPOSE - 1, content, size);
		/* Never more than the 255 digests of SHA-256 that there can be. */
		hkdf_sha256(NULL, 0, key, key_size, info, sizeof info, bytes, key_size);
	}
	for (size_t i = 0; i < key_size; i++) {
		request.body[used++] = digits[bytes[i] >> 4];
		request.body[used++] = digits[bytes[i] & 15];
	}
	explicit_bzero(bytes, sizeof bytes);
	return 1;
}

/* The parameters with their NUL, and zeros up to where the next target may begin. */
static int add_parameters(const char *text)
{
	static const char zeros[8];
	const char *mark;

	while ((mark = strstr(text, MARK)) != NULL) {
		const char *content = mark + strlen(MARK);
		size_t size = 0;

		if (*content == ':')
			size = strspn(++content, digits);
		/* `@KEY:@` is none: whoever wrote it meant a content. */
		if (content[size] != '@' || (content[-1] == ':' && size != CONTENT_DIGITS))
			return fail("a mark for the key is neither @KEY@ nor @KEY: with %d hexadecimal digits and @",
				    CONTENT_DIGITS);
		if (!add(text, (size_t)(mark - text)) || !add_key(content, size))
			return 0;
		text = content + size + 1;
	}
	return add(text, strlen(text)) && add(zeros, 8 - used % 8);
}

/* Takes a decimal number and the spaces behind it off a line. */
static int take_number(char **line, uint64_t *value)
{
	char *end;

	if (**line < '0' || **line > '9')
		return 0;
	errno = 0;
	*value = strtoull(*line, &end, 10);
	if (errno || *end != ' ')
		return 0;
	*line = end + strspn(end, " ");
	return 1;
}

static int add_target(char *line)
{
	struct dm_target_spec spec = {0};
	uint64_t start, length;
	size_t place = used, size;

	if (!take_number(&line, &start) || !take_number(&line, &length) || length == 0)
		return fail("a line of the table does not begin with START LENGTH TARGET");
	size = strcspn(line, " ");
	if (size == 0 || size >= sizeof spec.target_type)
		return fail("a line of the table names no target");
	memcpy(spec.target_type, line, size);
	spec.sector_start = start;
	spec.length = length;
	line += size;
	line += strspn(line, " ");
	if (!add((char *)&spec, sizeof spec) || !add_parameters(line))
		return 0;
	/* Where the next target is, from the beginning of this one. */
	spec.next = (uint32_t)(used - place);
	memcpy(request.body + place, &spec, sizeof spec);
	targets++;
	return 1;
}

static int read_table(void)
{
	ssize_t size = read_all(STDIN_FILENO, table, sizeof table);
	char *rest = table, *line;

	if (size < 0)
		return fail("standard input: %s", strerror(errno));
	if (size > TABLE_MAX)
		return fail("the table has more than %d bytes", TABLE_MAX);
	table[size] = '\0';
	if (strlen(table) != (size_t)size)
		return fail("the table holds a NUL");
	while ((line = strsep(&rest, "\n")) != NULL)
		if (*line && !add_target(line))
			return 0;
	return targets ? 1 : fail("there is no table on standard input");
}

/* Sends the request with `size` bytes of body; what the kernel answers takes the place of the head. */
static int ask(int control, unsigned long command, const char *name, uint32_t flags, size_t size)
{
	struct dm_ioctl *head = &request.head;

	memset(head, 0, sizeof *head);
	head->version[0] = WANT_MAJOR;
	head->version[1] = WANT_MINOR;
	head->data_start = offsetof(__typeof__(request), body);
	head->data_size = (uint32_t)(head->data_start + size);
	head->target_count = size ? targets : 0;
	head->flags = flags;
	memcpy(head->name, name, strlen(name)); /* shorter than the field: see usable() */
	return ioctl(control, command, &request) == 0;
}

static int open_control(void)
{
	int control = open(CONTROL, O_RDWR | O_CLOEXEC);

	if (control < 0) {
		fail(CONTROL ": %s", strerror(errno));
		return -1;
	}
	if (!ask(control, DM_VERSION, "", 0, 0)) {
		fail("the kernel's device-mapper has version %u.%u, wanted is %d.%d", request.head.version[0],
		     request.head.version[1], WANT_MAJOR, WANT_MINOR);
		close(control);
		return -1;
	}
	return control;
}

static void node_path(char *path, size_t size, const char *name)
{
	snprintf(path, size, "/dev/mapper/%s", name);
}

/* Without udev nobody else makes the node. `device` is as the kernel's new_encode_dev() packs it. */
static int make_node(const char *name, uint64_t device)
{
	char path[sizeof "/dev/mapper/" + DM_NAME_LEN];
	unsigned int major = (unsigned int)(device >> 8 & 0xfff);
	unsigned int minor = (unsigned int)((device & 0xff) | (device >> 12 & 0xfff00));

	node_path(path, sizeof path, name);
	if ((unlink(path) && errno != ENOENT) || mknod(path, S_IFBLK | 0600, makedev(major, minor)))
		return fail("%s: %s", path, strerror(errno));
	return 1;
}

static int create(const char *name, uint32_t flags)
{
	int control, error = 0;
	const char *step = "does not make the device";

	if (!read_table() || (control = open_control()) < 0)
		return 0;
	if (!ask(control, DM_DEV_CREATE, name, flags, 0)) {
		error = errno;
	} else {
		uint64_t device = request.head.dev;
		uint32_t secure = key_size ? DM_SECURE_DATA_FLAG : 0;

		step = "refuses the table";
		if (!ask(control, DM_TABLE_LOAD, name, flags | secure, used)) {
			error = errno;
		} else {
			step = "does not start the device";
			if (!ask(control, DM_DEV_SUSPEND, name, 0, 0)) /* without the flag it resumes */
				error = errno;
			else if (make_node(name, device))
				return 1;
		}
		/* A device without a table would be in the way of the next attempt. */
		ask(control, DM_DEV_REMOVE, name, 0, 0);
	}
	return error ? fail("%s: the kernel %s: %s", name, step, strerror(error)) : 0;
}

static int remove_device(const char *name)
{
	char path[sizeof "/dev/mapper/" + DM_NAME_LEN];
	int control = open_control();

	if (control < 0)
		return 0;
	if (!ask(control, DM_DEV_REMOVE, name, 0, 0))
		return fail("%s: the kernel does not remove the device: %s", name, strerror(errno));
	node_path(path, sizeof path, name);
	if (unlink(path) && errno != ENOENT)
		return fail("%s: %s", path, strerror(errno));
	return 1;
}

/* Whether a name can be a device's: it becomes a file name too. */
static int usable(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
	size_t size = strlen(name);

	return size > 0 && size < DM_NAME_LEN && strspn(name, letters) == size && strcmp(name, "control") != 0;
}

int main(int argc, char **argv)
{
	int done;

	keep_private();
	if (argc >= 3 && !usable(argv[2]))
		done = fail("the name is no device's: 1 to %d letters, digits, _ and -", DM_NAME_LEN - 1);
	else if (argc == 3 && strcmp(argv[1], "remove") == 0)
		done = remove_device(argv[2]);
	else if (argc == 3 && strcmp(argv[1], "create") == 0)
		done = create(argv[2], 0);
	else if (argc == 4 && strcmp(argv[1], "create") == 0 && strcmp(argv[3], "ro") == 0)
		done = create(argv[2], DM_READONLY_FLAG);
	else
		done = fail("usage: dmtable create NAME [ro] | remove NAME");
	explicit_bzero(key, sizeof key);
	explicit_bzero(&request, sizeof request);
	return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
