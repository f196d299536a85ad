// Room on the database's file system for the day on which there is none: a full disk refuses even
// to delete rows, since that needs room in the WAL. A file beside the database holds it
// (x.db.reserve); it is removed when the disk is full, and made anew once that is over. Whoever
// deletes the file loses nothing but that help.
//
// Blocking; one thread at a time (the store's).
#pragma once

#include <cstdint>
#include <string>

namespace sigmacast::storage {

/// Enough for a WAL that is due for its checkpoint (4 MiB) and the batch that comes on top.
inline constexpr std::uint64_t kReserveBytes = 8u << 20;
/// With less than this left on the file system no reserve is made: the disk is still full.
inline constexpr std::uint64_t kFreeBytesMin = 4 * kReserveBytes;

class Reserve {
 public:
    explicit Reserve(const std::string& database) : path_(database + ".reserve") {}

    /// Makes it where it is missing. True: it is there.
    bool keep();
    /// Gives its room back to the file system. True: there was some.
    bool release();

 private:
    std::string path_;
};

}  // namespace sigmacast::storage
