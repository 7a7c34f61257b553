/* What less and other pagers do to a pipeline: takes settings from the
 * terminal and sets them, which stops who is not in its foreground, and copies its
 * input. */
#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

int main(void) {
    char text[4096];
    ssize_t length;
    struct termios settings;
    int terminal = open("/dev/tty", O_RDWR);
    if (terminal < 0 || tcgetattr(terminal, &settings)) return 1;
    while ((length = read(0, text, sizeof text)) > 0) {
        if (tcsetattr(terminal, TCSADRAIN, &settings)) return 2;
        if (write(1, text, length) != length) return 3;
    }
    return 0;
}
