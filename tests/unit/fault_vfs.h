// SQLite's way to the disk, with a hand on it: it fails a chosen call, or remembers all that was
// written, in order, so that what a power cut leaves can be made from it.
//
//     FaultVfs disk;                                        // the default for files opened from
//     here on disk.fail({.call = Call::kSync, .nth = 3});           // the third sync from now
//     fails disk.record(); ... disk.records();
//
// One at a time, and to be destroyed after all databases are closed. Runs on: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sigmacast::storage {

enum class Call : std::uint8_t {
    kOpen,
    kDelete,
    kRead,
    kWrite,
    kTruncate,
    kSync,
    kFileSize,
    kLock,
    kShmMap,
    kShmLock,
};
inline constexpr std::size_t kCalls = 10;
const char* name_of(Call call);

enum class How : std::uint8_t {
    kIoError,    // EIO.
    kFull,       // ENOSPC, of what needs room.
    kHalf,       // Half of a read or write is done before the error; a read says it was short.
    kLosesPage,  // A sync fails, and what was written since the last one is gone.
};

struct Fault {
    Call call = Call::kWrite;
    How how = How::kIoError;
    std::uint64_t nth = 1;
    bool forever = false;  // That call and all such after it, until heal().
};

/// One change of a file; names are without their folder.
struct Record {
    enum class Kind : std::uint8_t { kWrite, kTruncate, kSync, kDelete, kMark };
    Kind kind = Kind::kMark;
    std::string file = {};
    std::uint64_t offset = 0;  // Also the size after a truncation, and the number of a mark.
    std::string data = {};
    bool folder_synced = false;  // Of a deletion.
};

class FaultVfs {
 public:
    FaultVfs();
    ~FaultVfs();
    FaultVfs(const FaultVfs&) = delete;
    FaultVfs& operator=(const FaultVfs&) = delete;

    void fail(Fault fault);
    void heal();
    /// Whether the fault has happened.
    [[nodiscard]] bool failed() const;

    void record();
    void mark(std::uint64_t number);
    [[nodiscard]] const std::vector<Record>& records() const;

    struct Impl;

 private:
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::storage
