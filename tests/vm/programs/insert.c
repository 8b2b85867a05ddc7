// SPDX-License-Identifier: GPL-2.0
/*
 * insert FILE [PARAMETER=VALUE]: one module, tried once, where busybox tries again in
 * another way. Exits with the error number.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
	char parameters[1024] = "";
	int file = open(words[1], O_RDONLY | O_CLOEXEC);
	int n;

	for (n = 2; n < count; n++) {
		strncat(parameters, words[n], sizeof(parameters) / 2);
		strcat(parameters, " ");
	}
	if (!syscall(SYS_finit_module, file, parameters, 0))
		return 0;
	n = errno;
	perror(words[1]);
	return n;
}
