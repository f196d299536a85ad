#include "producer/host_engine/compressor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/random.h"
#include "common/state_file.h"

namespace sigmacast::host_engine {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryPrefix = ".sigmacast-";
constexpr std::string_view kTemporarySuffix = ".part";
constexpr std::size_t kLeftoversMax = 4'096;  // Looked at in one start; each crash leaves few.
constexpr mode_t kPrivate = 0600;

Error refused(int number, const std::string& path, const char* what) {
    if (number == ENOSPC || number == EDQUOT || number == EFBIG) {
        return {Errc::kFull, "no room for '" + path + "' (" + errno_text(number) +
                                 "): free some space, then submit the file again"};
    }
    if (number == EEXIST) {
        return {Errc::kConflict,
                "'" + path + "' is there already and is not replaced: move or remove it first"};
    }
    return {Errc::kUnavailable, "'" + path + "' cannot be " + what + ": " + errno_text(number)};
}

Error cancelled() {
    return {Errc::kUnavailable, "cancelled"};
}

struct stat facts_of(int file) {
    struct stat facts{};
    if (::fstat(file, &facts) != 0) {
        facts.st_size = -1;
    }
    return facts;
}

/// The file that is written, until it gets its name.
class Output {
 public:
    Output(const Place& place, std::string path, const CompressOptions& options)
        : folder_(place.folder),
          name_(output_path_of(place.name)),
          path_(output_path_of(std::move(path))),
          options_(options) {}
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;
    ~Output() {
        if (!temporary_.empty()) {
            if (::unlinkat(folder_.get(), temporary_.c_str(), 0) == 0 || errno == ENOENT) {
                ::unlink(note_.c_str());
            }
        }
    }

    Result<> create() {
        // Known now is better than known after an hour; publish() decides.
        struct stat there{};
        if (::fstatat(folder_.get(), name_.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0) {
            return refused(EEXIST, path_, "made");
        }
        if (name_.size() > NAME_MAX) {
            return refused(ENAMETOOLONG, path_, "made");
        }
        if (options_.unnamed) {
            file_ = Descriptor(
                ::openat(folder_.get(), ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, kPrivate));
        }
        if (file_) {
            return {};
        }
        // EISDIR: a kernel that does not know O_TMPFILE; EOPNOTSUPP: a file system.
        if (options_.unnamed && errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT) {
            return refused(errno, path_, "made");
        }
        return create_named();
    }

    Result<> write(const char* bytes, std::size_t size) {
        while (size > 0) {
            const ssize_t written = ::write(file_.get(), bytes, size);
            if (written < 0 && errno == EINTR) {
                continue;
            }
            if (written < 0) {
                return refused(errno, path_, "written");
            }
            bytes += written;
            size -= static_cast<std::size_t>(written);
        }
        return {};
    }

    /// The original's mode, where its owner and group are, too: in another group's hands the same
    /// bits would let others read.
    Result<> finish(const struct stat& original) {
        const struct stat own = facts_of(file_.get());
        const bool same_owner = (own.st_uid == original.st_uid && own.st_gid == original.st_gid) ||
                                ::fchown(file_.get(), original.st_uid, original.st_gid) == 0;
        if (::fchmod(file_.get(), same_owner ? original.st_mode & 0777 : kPrivate) != 0 ||
            ::fsync(file_.get()) != 0) {
            return refused(errno, path_, "finished");
        }
        return {};
    }

    Result<> publish() {
        const bool published =
            temporary_.empty() ? link(file_.proc_path(), AT_SYMLINK_FOLLOW) : rename_temporary();
        if (!published) {
            return refused(errno, path_, "named");
        }
        if (::fsync(folder_.get()) != 0 && errno != EINVAL) {
            return refused(errno, path_, "kept for certain (its folder cannot be synced)");
        }
        return {};
    }

 private:
    Result<> create_named() {
        Random random = Random::from_system();
        const std::string id = random.hex(8);
        const std::string temporary =
            std::string(kTemporaryPrefix) + id + std::string(kTemporarySuffix);
        note_ = options_.state_folder + "/" + id;
        const std::string folder = path_.substr(0, path_.rfind('/') + 1);
        if (folder.size() + temporary.size() > kPathBytesMax) {
            return refused(ENAMETOOLONG, path_, "made");
        }
        if (Result<> noted = write_file_durably(note_, folder + temporary); !noted) {
            return noted.error().within("the temporary file's name cannot be noted");
        }
        file_ =
            Descriptor(::openat(folder_.get(), temporary.c_str(),
                                O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, kPrivate));
        if (!file_) {
            const int number = errno;
            ::unlink(note_.c_str());
            return refused(number, path_, "made");
        }
        temporary_ = temporary;
        return {};
    }

    /// A link never replaces what is there.
    bool link(const std::string& from, int flags) {
        const int at = flags == 0 ? folder_.get() : AT_FDCWD;
        return ::linkat(at, from.c_str(), folder_.get(), name_.c_str(), flags) == 0;
    }

    bool rename_temporary() {
        if (::renameat2(folder_.get(), temporary_.c_str(), folder_.get(), name_.c_str(),
                        RENAME_NOREPLACE) == 0) {
            temporary_.clear();
            ::unlink(note_.c_str());
            return true;
        }
        // A file system that cannot rename without replacing (NFS) may be able to link.
        return (errno == EINVAL || errno == ENOSYS) && link(temporary_, 0);
    }

    const Descriptor& folder_;
    const std::string name_;
    const std::string path_;
    const CompressOptions& options_;
    Descriptor file_;
    std::string temporary_;  // Its name while it has one that is to be removed.
    std::string note_;
};

/// Reads the whole of `file`, and writes it compressed.
class Stream {
 public:
    Stream(int file, std::uint64_t size, Output& output, const CompressOptions& options)
        : file_(file),
          output_(output),
          context_(ZSTD_createCCtx(), ZSTD_freeCCtx),
          in_(ZSTD_CStreamInSize()),
          out_(ZSTD_CStreamOutSize()) {
        progress_.bytes_total = size;
        if (context_) {
            ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, options.level);
            ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
            ZSTD_CCtx_setPledgedSrcSize(context_.get(), size);
        }
    }

    Result<Progress> run(const std::string& path, const CompressCalls& calls) {
        if (!context_) {
            return Error{Errc::kUnavailable, "not enough memory to compress '" + path + "'"};
        }
        for (bool ended = false; !ended;) {
            if (!calls.advanced(progress_)) {
                return cancelled();
            }
            const ssize_t got = ::read(file_, in_.data(), in_.size());
            if (got < 0 && errno == EINTR) {
                continue;
            }
            if (got < 0) {
                return refused(errno, path, "read");
            }
            ended = got == 0;
            progress_.bytes_read += static_cast<std::uint64_t>(got);
            if (progress_.bytes_read > progress_.bytes_total ||
                (ended && progress_.bytes_read < progress_.bytes_total)) {
                return changed(path);
            }
            if (Result<> done = compress(static_cast<std::size_t>(got), ended); !done) {
                return done.error();
            }
        }
        return progress_;
    }

    static Error changed(const std::string& path) {
        return {Errc::kInvalid, "'" + path +
                                    "' changed while it was read: submit it again when nothing "
                                    "writes to it"};
    }

 private:
    Result<> compress(std::size_t size, bool ended) {
        ZSTD_inBuffer in{in_.data(), size, 0};
        for (std::size_t left = 1; left != 0;) {
            ZSTD_outBuffer out{out_.data(), out_.size(), 0};
            left = ZSTD_compressStream2(context_.get(), &out, &in,
                                        ended ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(left)) {
                return Error{Errc::kInternal, std::string("zstd: ") + ZSTD_getErrorName(left)};
            }
            if (Result<> written = output_.write(out_.data(), out.pos); !written) {
                return written;
            }
            progress_.bytes_written += out.pos;
            if (!ended && in.pos == in.size) {
                break;  // What is left in zstd's own buffers comes with the next input.
            }
        }
        return {};
    }

    const int file_;
    Output& output_;
    const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context_;
    std::vector<char> in_;
    std::vector<char> out_;
    Progress progress_;
};

bool is_unchanged(const struct stat& before, const struct stat& after) {
    return before.st_size == after.st_size && before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
           before.st_mtim.tv_nsec == after.st_mtim.tv_nsec;
}

bool is_temporary(std::string_view name) {
    return name.starts_with(kTemporaryPrefix) && name.ends_with(kTemporarySuffix);
}

/// Whether the note is done with.
Result<> remove_leftover(const Folders& folders, const std::string& path) {
    const Result<Place> place = folders.open_parent(path);
    if (!place) {
        return place.error().code == Errc::kNotFound ? Result<>() : place.error();
    }
    if (!is_temporary(place->name)) {
        return Error{Errc::kCorrupt, "'" + path + "' is not the name of a temporary file"};
    }
    if (::unlinkat(place->folder.get(), place->name.c_str(), 0) != 0 && errno != ENOENT) {
        return refused(errno, path, "removed");
    }
    return {};
}

}  // namespace

Result<Progress> compress_file(const Folders& folders, const std::string& path,
                               const CompressOptions& options, const CompressCalls& calls) {
    const Result<Place> place = folders.open_parent(path);
    if (!place) {
        return place.error();
    }
    const Result<Descriptor> file = open_regular(*place, path);
    if (!file) {
        return file.error();
    }
    const struct stat before = facts_of(file->get());
    Output output(*place, path, options);
    if (Result<> created = output.create(); !created) {
        return created.error();
    }
    Result<Progress> done =
        Stream(file->get(), static_cast<std::uint64_t>(before.st_size), output, options)
            .run(path, calls);
    if (!done) {
        return done;
    }
    if (!is_unchanged(before, facts_of(file->get()))) {
        return Stream::changed(path);
    }
    if (!calls.advanced(*done)) {
        return cancelled();
    }
    if (Result<> finished = output.finish(before); !finished) {
        return finished.error();
    }
    if (!calls.may_appear()) {
        return cancelled();
    }
    if (Result<> published = output.publish(); !published) {
        return published.error();
    }
    return done;
}

void remove_leftovers(const Folders& folders, const std::string& state_folder) {
    std::error_code failed;
    std::vector<std::string> notes;
    for (fs::directory_iterator it(state_folder, failed), end;
         !failed && it != end && notes.size() < kLeftoversMax; it.increment(failed)) {
        notes.push_back(it->path().string());
    }
    for (const std::string& note : notes) {
        const Result<std::string> path = read_small_file(note);
        const Result<> removed = path ? remove_leftover(folders, *path) : path.error();
        if (removed) {
            ::unlink(note.c_str());
        } else {
            log_warn("a temporary file of a broken compression stays",
                     {{"note", note}, {"why", removed.error().message}});
        }
    }
}

}  // namespace sigmacast::host_engine
