/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROCESS_H
#define PROCESS_H

/* Keeps what this process knows to itself; the first call of a program that will have a key in its memory. */
void keep_private(void);

#endif
