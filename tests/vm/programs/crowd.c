// SPDX-License-Identifier: GPL-2.0
/*
 * Many processes for a guest, quicker than its shell makes them.
 *
 *	crowd sleep N			N processes that sleep for an hour; returns
 *	crowd halves N STOP		N processes that call rl_halves until the file STOP
 *					exists; prints calls, mixes, the most and the fewest
 *					ups and downs of one process, and the last versions
 *	crowd forks STOP		forks children that call rl_halves once, until STOP
 *					exists; prints children, calls and mixes
 *	crowd epoll N FILE		N processes in epoll_wait() for ever; each appends to FILE
 *					how that ended; returns
 *	crowd wait FILE			returns when the first byte of FILE is not 1; prints ms
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HALVES "/proc/rl_halves"
#define MOST 1000

struct count {
	unsigned long long calls, mixes, ups, downs;
	int version;
};

static struct count call(int file, const char *calls)
{
	struct count count = { 0 };
	char text[100] = "";

	if (write(file, calls, strlen(calls)) < 0 || pread(file, text, sizeof(text) - 1, 0) < 0 ||
	    sscanf(text, "%llu %llu %llu %llu %d", &count.calls, &count.mixes, &count.ups,
		   &count.downs, &count.version) != 5)
		exit(2);
	return count;
}

static int sleepers(int number)
{
	struct timespec hour = { .tv_sec = 3600 };

	while (number--) {
		if (fork())
			continue;
		setsid();
		close(0);
		close(1);
		close(2);
		nanosleep(&hour, NULL);
		_exit(0);
	}
	return 0;
}

static int pollers(int number, const char *path)
{
	while (number--) {
		struct epoll_event event;
		int file, count;

		if (fork())
			continue;
		setsid();
		close(0);
		close(1);
		close(2);
		file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
		count = epoll_wait(epoll_create1(0), &event, 1, -1);
		dprintf(file, "%s\n", count < 0 ? strerrorname_np(errno) : "woken");
		_exit(0);
	}
	return 0;
}

static int halves(int number, const char *stop, struct count *counts)
{
	struct count all = { 0 }, fewest = { .ups = -1, .downs = -1 };
	int n, ones = 0;

	for (n = 0; n < number; n++) {
		if (fork())
			continue;
		int file = open(HALVES, O_RDWR);

		while (access(stop, F_OK))
			counts[n] = call(file, "200");
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	for (n = 0; n < number; n++) {
		all.calls += counts[n].calls;
		all.mixes += counts[n].mixes;
		all.ups = counts[n].ups > all.ups ? counts[n].ups : all.ups;
		all.downs = counts[n].downs > all.downs ? counts[n].downs : all.downs;
		fewest.ups = counts[n].ups < fewest.ups ? counts[n].ups : fewest.ups;
		fewest.downs = counts[n].downs < fewest.downs ? counts[n].downs : fewest.downs;
		ones += counts[n].version;
	}
	printf("%llu %llu %llu %llu %llu %llu %d\n", all.calls, all.mixes, all.ups, fewest.ups,
	       all.downs, fewest.downs, ones);
	return 0;
}

static int forks(const char *stop, struct count *all)
{
	unsigned long children = 0;

	while (access(stop, F_OK)) {
		if (!fork()) {
			struct count one = call(open(HALVES, O_RDWR), "1");

			__atomic_fetch_add(&all->calls, one.calls, __ATOMIC_RELAXED);
			__atomic_fetch_add(&all->mixes, one.mixes, __ATOMIC_RELAXED);
			_exit(0);
		}
		if (++children % 8 == 0)	/* as many are there at a time */
			while (wait(NULL) > 0)
				;
	}
	while (wait(NULL) > 0)
		;
	printf("%lu %llu %llu\n", children, all->calls, all->mixes);
	return 0;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int wait_for(const char *path)
{
	double begun = now();
	char state = '1';

	while (state == '1') {
		int file = open(path, O_RDONLY);

		if (file < 0 || read(file, &state, 1) != 1)
			state = '0';	/* the patch is gone */
		close(file);
		if (state == '1')
			usleep(500);
	}
	printf("%.1f\n", now() - begun);
	return 0;
}

int main(int argc, char **argv)
{
	struct count *shared = mmap(NULL, MOST * sizeof(*shared), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (argc == 3 && !strcmp(argv[1], "sleep"))
		return sleepers(atoi(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "epoll"))
		return pollers(atoi(argv[2]), argv[3]);
	if (argc == 4 && !strcmp(argv[1], "halves") && atoi(argv[2]) <= MOST)
		return halves(atoi(argv[2]), argv[3], shared);
	if (argc == 3 && !strcmp(argv[1], "forks"))
		return forks(argv[2], shared);
	if (argc == 3 && !strcmp(argv[1], "wait"))
		return wait_for(argv[2]);
	return 64;
}
