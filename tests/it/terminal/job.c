/* The command of the table of terminal tests: appends the time to the file
 * "log" every 20 ms, until the file "finish" contains its exit code.
 *
 *   job [stubborn] [asking] [patient]
 *
 * stubborn: ignores TERM. patient: handles INT and continues. asking: reads a
 * line from the terminal, not from its standard input. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Five minutes: the tests may have been killed. */
#define ROUNDS_MAX 15000

static volatile sig_atomic_t interrupts;

static void interrupted(int signal) {
    (void)signal;
    interrupts++;
}

static void append_time(int log) {
    struct timespec now;
    char line[32];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(line, sizeof line, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    if (write(log, line, length) != length) _exit(90);
}

/* Returns the exit code in the file, or -1. A failure applies to one round of a
 * loop, a success to all. */
static int finish_code(void) {
    char text[8] = "";
    int code = -1;
    int file = open("finish", O_RDONLY);
    if (file < 0) return -1;
    if (read(file, text, sizeof text - 1) > 0) sscanf(text, "%d", &code);
    close(file);
    if (code > 0) unlink("finish");
    return code;
}

int main(int count, char **words) {
    int terminal = -1;
    int log = open("log", O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (log < 0) return 91;
    for (int i = 1; i < count; i++) {
        if (!strcmp(words[i], "stubborn")) signal(SIGTERM, SIG_IGN);
        if (!strcmp(words[i], "patient")) signal(SIGINT, interrupted);
        if (!strcmp(words[i], "asking")) {
            terminal = open("/dev/tty", O_RDWR);
            if (terminal < 0 || write(terminal, "Password: ", 10) != 10) return 92;
        }
    }
    append_time(log);
    printf("begun\n");
    fflush(stdout);
    for (int rounds = 0; rounds < ROUNDS_MAX; rounds++) {
        struct pollfd input = {terminal, POLLIN, 0};
        if (poll(&input, terminal < 0 ? 0 : 1, 20) > 0) {
            char line[80] = "";
            ssize_t length = read(terminal, line, sizeof line - 1);
            if (length > 0) printf("got:%.*s:\n", (int)strcspn(line, "\n"), line);
            fflush(stdout);
            terminal = -1;
        }
        append_time(log);
        int code = finish_code();
        if (code >= 0) return interrupts ? 100 + code : code;
    }
    return 93;
}
