#include "common/state_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>

#include "common/descriptor.h"

namespace sigmacast {
namespace {

constexpr std::size_t kSmallFileBytesMax = 4096;
// The broker's database holds counters as signed integers.
constexpr std::uint64_t kCounterMax = std::numeric_limits<std::int64_t>::max();

Error failed(std::string_view what, const std::string& path) {
    const int cause = errno;
    return {cause == ENOENT ? Errc::kNotFound : Errc::kUnavailable,
            std::string(what) + " " + path + ": " + std::strerror(cause)};
}

bool write_all(int file, std::string_view content) {
    while (!content.empty()) {
        const ssize_t written = ::write(file, content.data(), content.size());
        if (written < 0 && errno != EINTR) {
            return false;
        }
        content.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
    }
    return true;
}

std::string trimmed(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\r')) {
        text.pop_back();
    }
    return text;
}

}  // namespace

Result<> sync_folder_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid() || ::fsync(directory.get()) != 0) {
        return failed("cannot sync the folder", folder);
    }
    return {};
}

Result<> write_file_durably(const std::string& path, std::string_view content, unsigned mode) {
    const std::string temporary = path + ".new";
    {
        const Descriptor file(
            ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
        if (!file.valid()) {
            return failed("cannot create", temporary);
        }
        if (!write_all(file.get(), content) || ::fsync(file.get()) != 0) {
            Error error = failed("cannot write", temporary);
            ::unlink(temporary.c_str());  // A full disk needs its room.
            return error;
        }
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
        return failed("cannot replace", path);
    }
    return sync_folder_of(path);
}

Result<std::string> read_small_file(const std::string& path) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) {
        return failed("cannot read", path);
    }
    std::array<char, kSmallFileBytesMax + 1> buffer;
    std::size_t size = 0;
    while (size < buffer.size()) {
        const ssize_t got = ::read(file.get(), buffer.data() + size, buffer.size() - size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return failed("cannot read", path);
        }
        if (got == 0) {
            return std::string(buffer.data(), size);
        }
        size += static_cast<std::size_t>(got);
    }
    return Error{Errc::kTooLarge, path + " is over 4 KiB: it is not the file that belongs there"};
}

Result<std::uint64_t> raise_counter(const std::string& path, std::uint64_t at_least) {
    std::uint64_t counter = 0;
    const Result<std::string> text = read_small_file(path);
    if (text) {
        const std::string digits = trimmed(*text);
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), counter);
        if (error != std::errc{} || end != digits.data() + digits.size() ||
            counter >= kCounterMax) {
            return Error{Errc::kCorrupt, path +
                                             " holds no number that can be raised: remove it "
                                             "(the broker names the next one)"};
        }
    } else if (text.error().code != Errc::kNotFound) {
        return text.error();
    }
    counter = std::max(counter + 1, at_least);
    const Result<> written = write_file_durably(path, std::to_string(counter) + "\n");
    if (!written) {
        return written.error();
    }
    return counter;
}

Result<std::uint64_t> next_epoch(const std::string& path, Wall now) {
    return raise_counter(path, least_epoch(now));
}

Result<std::string> origin_name(const std::string& path, const std::string& configured) {
    if (!configured.empty()) {
        return configured;
    }
    Result<std::string> saved = read_small_file(path);
    if (saved) {
        std::string name = trimmed(std::move(*saved));
        if (!name.empty()) {
            return name;
        }
    } else if (saved.error().code != Errc::kNotFound) {
        return saved.error();
    }
    std::array<char, 256> host{};
    if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') {
        return Error{Errc::kUnavailable,
                     "this machine has no host name: set producer.origin in the configuration"};
    }
    std::string name = host.data();
    const Result<> written = write_file_durably(path, name + "\n");
    if (!written) {
        return written.error();
    }
    return name;
}

Result<FileLock> FileLock::take(const std::string& path) {
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!file.valid()) {
        return failed("cannot open the lock file", path);
    }
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            return Error{Errc::kConflict, path + " is locked by another running process"};
        }
        return failed("cannot lock", path);
    }
    return FileLock(file.release());
}

FileLock::FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

FileLock::~FileLock() {
    if (descriptor_ >= 0) {
        ::close(descriptor_);
    }
}

}  // namespace sigmacast
