// Small files that must survive a power cut (a producer's epoch, its origin's name), and the lock
// that keeps two programs from using one of them. Blocking; for start-up and rare changes. Thread
// safe (no state of its own).
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/time.h"

namespace sigmacast {

/// Writes a temporary file, syncs it, renames it over `path` and syncs the folder: afterwards the
/// file has the old content or the new one, whatever happens. Errors: kUnavailable, naming the path
/// and why.
Result<> write_file_durably(const std::string& path, std::string_view content,
                            unsigned mode = 0644);

/// What was made, renamed or removed in the folder of `path` is so after a power cut, too.
Result<> sync_folder_of(const std::string& path);

/// Errors: kNotFound, kUnavailable, kTooLarge (over 4 KiB).
Result<std::string> read_small_file(const std::string& path);

/// Raises the counter in `path` by one, and to `at_least`, and makes it durable. A missing file
/// counts as 0. Errors: kCorrupt (not a number, or the last one: says what to do), kUnavailable.
Result<std::uint64_t> raise_counter(const std::string& path, std::uint64_t at_least = 1);

/// What a producer's epoch is at least, the wall clock's seconds: where the file of the last one
/// was lost it must not begin again with the number under which the broker knows the one before.
inline std::uint64_t least_epoch(Wall now) {
    const auto seconds = std::chrono::duration_cast<Seconds>(now.time_since_epoch()).count();
    return static_cast<std::uint64_t>(std::max<std::int64_t>(seconds, 1));
}

/// For a producer's next instance, kept in `path`. Errors: raise_counter's.
Result<std::uint64_t> next_epoch(const std::string& path, Wall now);

/// The configured name or, where that is empty, this machine's host name, saved in `path` at the
/// first start so that a renamed machine keeps its history.
Result<std::string> origin_name(const std::string& path, const std::string& configured);

/// An exclusive lock, held until destroyed; the system frees it when the process ends, however it
/// ends.
class FileLock {
 public:
    /// Creates `path` where it is missing. Errors: kConflict (held by another process),
    /// kUnavailable.
    static Result<FileLock> take(const std::string& path);

    FileLock(FileLock&& other) noexcept;
    FileLock& operator=(FileLock&& other) noexcept;
    ~FileLock();

 private:
    explicit FileLock(int descriptor) : descriptor_(descriptor) {}
    int descriptor_ = -1;
};

}  // namespace sigmacast
