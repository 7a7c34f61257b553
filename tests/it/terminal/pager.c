/* Behaves like less and other pagers in a pipeline: reads and sets the terminal's
 * settings, which stops a background process, and copies its input. */
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
