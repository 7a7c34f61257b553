// Overrides the system time of a process (LD_PRELOAD) with the time in a file, in microseconds
// since 1970, so that a test can move it. A value before the year 2000 is an offset that is added
// to the real time. Monotonic clocks are unchanged.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define YEAR_2000_US 946684800000000

static volatile const int64_t *now_us;

__attribute__((constructor)) static void map_clock(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) {
        return;
    }
    void *page = mmap(NULL, sizeof *now_us, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) {
        now_us = page;
    }
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!now_us || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) {
        return (int)syscall(SYS_clock_gettime, clock, out);
    }
    int64_t now = *now_us;
    if (now < YEAR_2000_US) {
        struct timespec real;
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
        now += (int64_t)real.tv_sec * 1000000 + real.tv_nsec / 1000;
    }
    out->tv_sec = (time_t)(now / 1000000);
    out->tv_nsec = (long)(now % 1000000) * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}
