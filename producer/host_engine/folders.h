// Which files may be compressed: those below the configured folders, reached without a link.
//
//     folders.check(path)        is text alone, for the loop: absolute, below a folder, no "..".
//     folders.open_parent(path)  opens the folder that the file is in; no component below the
//                                configured folder may be a link, so nothing leads out of it.
//     open_regular(place, path)  opens the file, unless it is a link, a pipe, a device or a socket.
//
// check() touches no file. The two others may block (a network file system, a disk that sleeps) and
// belong on a worker's thread. Thread safe: constant after construction. It does not follow the
// folders' names when they change: a folder is opened anew each time, by its name.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"

namespace sigmacast::host_engine {

/// An open file, closed at the end of its scope.
class Descriptor {
 public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    ~Descriptor();

    [[nodiscard]] int get() const { return number_; }
    explicit operator bool() const { return number_ >= 0; }
    /// Its name in /proc, by which it can be opened anew or linked.
    [[nodiscard]] std::string proc_path() const;

 private:
    int number_;
};

/// A name in an open folder. The folder is open for reading, so that it can be synced.
struct Place {
    Descriptor folder;
    std::string name;
};

inline constexpr std::size_t kPathBytesMax = 3'000;  // Of what clients name; PATH_MAX is 4,096.

class Folders {
 public:
    enum class Walk { kKernel, kOwn };  // openat2(2), or component by component without it.

    /// Absolute paths. Where one leads through links, the name that it leads to is accepted, too.
    /// Blocks where a folder's file system does.
    explicit Folders(const std::vector<std::string>& roots, Walk walk = Walk::kKernel);

    /// The path without doubled slashes and single dots. Errors: kInvalid, saying which folders
    /// there are.
    [[nodiscard]] Result<std::string> check(std::string_view path) const;

    /// Errors: those of check(); kNotFound; kInvalid (a link on the way); kUnavailable.
    [[nodiscard]] Result<Place> open_parent(const std::string& path) const;

 private:
    /// The folder that the (checked) path is below of, and what comes after it.
    [[nodiscard]] std::pair<std::string, std::string> split(const std::string& path) const;

    std::vector<std::string> roots_;  // Without a slash at the end: "/" is "".
    std::string shown_;
    const Walk walk_;
};

/// Open for reading. Nothing but a regular file is opened at all, so that no pipe blocks and no
/// device is disturbed. Errors: kNotFound ("Input file not found: /x"), kInvalid (no regular file),
/// kUnavailable.
Result<Descriptor> open_regular(const Place& place, const std::string& path);

/// "No space left on device"
std::string errno_text(int number);

}  // namespace sigmacast::host_engine
