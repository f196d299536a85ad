// Reads lines from a file descriptor on a thread of its own and hands them to the loop in batches.
// Bounded: while kBatchesMax batches are not taken, it does not read, so that a pipe's writer
// waits. Runs on: the loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/loop.h"

namespace sigmacast::cli {

struct Line {
    std::uint64_t number = 0;  // From 1.
    std::string text;          // Without the newline.
    bool too_long = false;     // Over bytes_max: the text is what fitted.
};

class LineReader {
 public:
    static constexpr std::size_t kBatchesMax = 4;
    static constexpr std::size_t kBatchLinesMax = 1024;

    /// `on_lines` and `on_end` are called on the loop. Call taken() once for each batch that is
    /// worked off.
    LineReader(Loop& loop, int descriptor, std::size_t bytes_max,
               std::function<void(std::vector<Line>)> on_lines, std::function<void()> on_end);
    /// Ends the thread, at once.
    ~LineReader();
    LineReader(const LineReader&) = delete;
    LineReader& operator=(const LineReader&) = delete;

    void taken();

 private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace sigmacast::cli
