// Compresses one file with zstd into NAME.zst beside it. The original is only read. The output has
// no name until it is whole and synced, and never takes the place of a file that is there already;
// a cancel, a full disk or a crash leaves nothing behind.
//
// Where the file system has unnamed files (O_TMPFILE), the kernel removes what was not finished.
// Elsewhere (NFS, FAT) the output has a temporary name, which is noted in the state folder before
// the file is made, so that remove_leftovers() finds it after a crash without searching any disk.
//
// Blocking, for minutes: for a worker's thread. Each call is on its own; thread safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/result.h"
#include "producer/host_engine/folders.h"

namespace sigmacast::host_engine {

struct CompressOptions {
    int level = 3;
    std::string state_folder;  // For the notes of temporary names; exists.
    bool unnamed = true;       // False: as if the file system had no unnamed files.
};

struct Progress {
    std::uint64_t bytes_total = 0;    // Of the original.
    std::uint64_t bytes_read = 0;     // zstd has taken them; all but the last block is written.
    std::uint64_t bytes_written = 0;  // Compressed.
};

/// Both are called on the calling thread and must not block; false ends the work at once.
struct CompressCalls {
    std::function<bool(const Progress&)> advanced;  // At the start, and after each 128 KiB.
    std::function<bool()> may_appear;               // Last, before the output gets its name.
};

/// Errors: those of Folders; kInvalid (the file changed while it was read); kConflict (NAME.zst is
/// there already); kFull (no room on the disk); kUnavailable (cancelled; any other problem).
Result<Progress> compress_file(const Folders& folders, const std::string& path,
                               const CompressOptions& options, const CompressCalls& calls);

inline std::string output_path_of(const std::string& path) {
    return path + ".zst";
}

/// Removes the temporary files that a crash left, by the notes in the state folder. To be called
/// before the first compress_file(), by the only process that uses this folder. What cannot be
/// removed is logged and stays noted.
void remove_leftovers(const Folders& folders, const std::string& state_folder);

}  // namespace sigmacast::host_engine
