#include "producer/host_engine/folders.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <system_error>

namespace sigmacast::host_engine {
namespace {

constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

Error invalid(const std::string& message) {
    return {Errc::kInvalid, message};
}

Error refused(int number, const std::string& path) {
    if (number == ENOENT) {
        return {Errc::kNotFound, "Input file not found: " + path};  // As the original says it.
    }
    if (number == ELOOP || number == ENOTDIR || number == EXDEV) {
        return invalid("'" + path +
                       "' leads through a link, or through something that is no folder: name the "
                       "file by its real path");
    }
    if (number == EACCES || number == EPERM) {
        return {Errc::kUnavailable,
                "'" + path +
                    "' may not be read by the user that the engine runs as: " + errno_text(number)};
    }
    return {Errc::kUnavailable, "'" + path + "' cannot be opened: " + errno_text(number)};
}

/// The components of a path, without empty ones and single dots.
std::vector<std::string> components(std::string_view path) {
    std::vector<std::string> parts;
    while (!path.empty()) {
        const std::size_t slash = std::min(path.find('/'), path.size());
        const std::string_view part = path.substr(0, slash);
        if (!part.empty() && part != ".") {
            parts.emplace_back(part);
        }
        path.remove_prefix(std::min(slash + 1, path.size()));
    }
    return parts;
}

std::string joined(const std::vector<std::string>& parts) {
    std::string path;
    for (const std::string& part : parts) {
        path += "/" + part;
    }
    return path;
}

bool is_below(const std::string& path, const std::string& root) {
    return path.size() > root.size() + 1 && path.starts_with(root) && path[root.size()] == '/';
}

std::string real_path(const std::string& path) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                           std::free);
    return real ? std::string(real.get()) : std::string();
}

/// As openat2 does it with RESOLVE_NO_SYMLINKS; "..", which could lead out, is not in the path.
int open_by_steps(int folder, const std::string& path) {
    Descriptor at(::fcntl(folder, F_DUPFD_CLOEXEC, 0));
    for (const std::string& part : components(path)) {
        Descriptor next(::openat(at.get(), part.c_str(), kFolderFlags | O_NOFOLLOW));
        if (!next) {
            return -1;
        }
        at = std::move(next);
    }
    return ::fcntl(at.get(), F_DUPFD_CLOEXEC, 0);
}

int open_below(int folder, const std::string& path, Folders::Walk walk) {
    if (walk == Folders::Walk::kKernel) {
        open_how how{};
        how.flags = static_cast<unsigned>(kFolderFlags);
        how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
        const long opened = ::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how);
        // An old kernel does not know it, an old container forbids it.
        if (opened >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return static_cast<int>(opened);
        }
    }
    return open_by_steps(folder, path);
}

std::string kind_of(mode_t mode) {
    return S_ISLNK(mode)    ? "a link; name the file that it leads to"
           : S_ISDIR(mode)  ? "a folder; name a file in it"
           : S_ISFIFO(mode) ? "a pipe, and has no end"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

}  // namespace

Descriptor::~Descriptor() {
    if (number_ >= 0) {
        ::close(number_);
    }
}

std::string Descriptor::proc_path() const {
    return "/proc/self/fd/" + std::to_string(number_);
}

std::string errno_text(int number) {
    return std::generic_category().message(number);
}

Folders::Folders(const std::vector<std::string>& roots, Walk walk) : walk_(walk) {
    for (const std::string& root : roots) {
        shown_ += (shown_.empty() ? "" : ", ") + root;
        for (const std::string& name : {root, real_path(root)}) {
            const std::string plain = joined(components(name));
            if (!name.empty() && std::find(roots_.begin(), roots_.end(), plain) == roots_.end()) {
                roots_.push_back(plain);
            }
        }
    }
    // Of two folders, one in the other, the inner one is opened: it may be reached by a link.
    std::sort(roots_.begin(), roots_.end(), [](const std::string& one, const std::string& other) {
        return one.size() > other.size();
    });
}

Result<std::string> Folders::check(std::string_view path) const {
    if (path.size() > kPathBytesMax) {
        return invalid("source_path is " + std::to_string(path.size()) + " bytes long, and " +
                       std::to_string(kPathBytesMax) + " are the most");
    }
    const std::string shown(path);
    if (path.empty() || path.front() != '/' || path.find('\0') != std::string_view::npos) {
        return invalid("source_path '" + shown + "' is not an absolute path: begin it with /");
    }
    if (path.back() == '/') {
        return invalid("source_path '" + shown + "' is a folder; name a file in it");
    }
    const std::vector<std::string> parts = components(path);
    if (std::find(parts.begin(), parts.end(), "..") != parts.end()) {
        return invalid("source_path '" + shown + "' has '..' in it: name the file without");
    }
    std::string plain = joined(parts);
    if (std::none_of(roots_.begin(), roots_.end(),
                     [&](const std::string& root) { return is_below(plain, root); })) {
        return invalid("source_path '" + shown +
                       "' is below none of the folders in which this engine compresses (" + shown_ +
                       "): move the file there, or add its folder to compress_folders in [engine] "
                       "and restart the engine");
    }
    return plain;
}

std::pair<std::string, std::string> Folders::split(const std::string& path) const {
    for (const std::string& root : roots_) {
        if (is_below(path, root)) {
            return {root.empty() ? "/" : root, path.substr(root.size() + 1)};
        }
    }
    return {};
}

Result<Place> Folders::open_parent(const std::string& path) const {
    const Result<std::string> plain = check(path);
    if (!plain) {
        return plain.error();
    }
    const auto [root, below] = split(*plain);
    Descriptor folder(::open(root.c_str(), kFolderFlags));
    if (!folder) {
        return refused(errno, *plain);
    }
    const std::size_t slash = below.rfind('/');
    if (slash != std::string::npos) {
        Descriptor deeper(open_below(folder.get(), below.substr(0, slash), walk_));
        if (!deeper) {
            return refused(errno, *plain);
        }
        folder = std::move(deeper);
    }
    return Place{std::move(folder), below.substr(slash == std::string::npos ? 0 : slash + 1)};
}

Result<Descriptor> open_regular(const Place& place, const std::string& path) {
    const Descriptor found(
        ::openat(place.folder.get(), place.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat facts{};
    if (!found || ::fstat(found.get(), &facts) != 0) {
        return refused(errno, path);
    }
    if (!S_ISREG(facts.st_mode)) {
        return invalid("'" + path + "' is " + kind_of(facts.st_mode) +
                       ": only ordinary files are compressed");
    }
    Descriptor file(::open(found.proc_path().c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    if (!file) {
        return refused(errno, path);
    }
    return file;
}

}  // namespace sigmacast::host_engine
