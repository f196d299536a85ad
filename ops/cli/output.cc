#include "ops/cli/output.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

namespace sigmacast::cli {

void ignore_broken_pipe() {
    std::signal(SIGPIPE, SIG_IGN);
}

Paint paint_for_stdout() {
    return Paint(
        wants_color(isatty(STDOUT_FILENO) == 1, std::getenv("NO_COLOR"), std::getenv("TERM")));
}

bool print(std::string_view text) {
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
           std::fflush(stdout) == 0;
}

void complain(std::string_view message) {
    std::fprintf(stderr, "sigmacast: %.*s\n", static_cast<int>(message.size()), message.data());
}

void remark(std::string_view message) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(message.size()), message.data());
}

}  // namespace sigmacast::cli
