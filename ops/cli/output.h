// Writing lines to standard output, to a terminal or a pipe whose other end may be gone, and
// problems to standard error. Runs on: the main thread.
#pragma once

#include <string_view>

#include "ops/cli/format.h"

namespace sigmacast::cli {

/// Makes a closed pipe an error of print() instead of the end of the process. To be called once,
/// first.
void ignore_broken_pipe();
/// Colours where standard output is a terminal that wants them.
Paint paint_for_stdout();
/// Writes and flushes. False: nobody reads any more.
[[nodiscard]] bool print(std::string_view text);
/// `sigmacast: ...` on standard error.
void complain(std::string_view message);
/// A remark on standard error, without the name.
void remark(std::string_view message);

}  // namespace sigmacast::cli
