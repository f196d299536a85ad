#include "tests/unit/fault_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

namespace sigmacast::storage {
namespace {

constexpr const char* kName = "sigmacast-faults";

/// What was there before a write that is not synced yet.
struct Before {
    sqlite3_int64 offset;
    std::string bytes;
    sqlite3_int64 size;
};

std::string base_name(const char* path) {
    const std::string name = path == nullptr ? "" : path;
    return name.substr(name.rfind('/') + 1);
}

}  // namespace

const char* name_of(Call call) {
    constexpr std::array<const char*, kCalls> kNames{"open",     "delete",  "read",      "write",
                                                     "truncate", "sync",    "file size", "lock",
                                                     "shm map",  "shm lock"};
    return kNames[static_cast<std::size_t>(call)];
}

struct FaultVfs::Impl {
    sqlite3_vfs vfs{};
    sqlite3_vfs* real = nullptr;
    std::optional<Fault> fault;
    std::uint64_t seen = 0;
    bool failed = false;
    bool recording = false;
    std::vector<Record> records;
    std::map<std::string, std::vector<Before>> unsynced;

    /// How this call fails, if it does.
    std::optional<How> strike(Call call) {
        if (!fault || fault->call != call) {
            return std::nullopt;
        }
        ++seen;
        if (seen != fault->nth && !(fault->forever && seen > fault->nth)) {
            return std::nullopt;
        }
        failed = true;
        return fault->how;
    }
    void add(Record record) {
        if (recording) {
            records.push_back(std::move(record));
        }
    }
};

namespace {

struct File {
    sqlite3_file base;
    FaultVfs::Impl* disk;
    std::string* name;  // SQLite gives the memory and runs no constructor.
    sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};

File* self(sqlite3_file* file) {
    return reinterpret_cast<File*>(file);
}

int close_file(sqlite3_file* file) {
    File* of = self(file);
    delete of->name;
    return of->real()->pMethods->xClose(of->real());
}

int read_file(sqlite3_file* file, void* into, int size, sqlite3_int64 offset) {
    File* of = self(file);
    const auto how = of->disk->strike(Call::kRead);
    if (how == How::kHalf) {
        const int half = size / 2;
        const int code = of->real()->pMethods->xRead(of->real(), into, half, offset);
        std::memset(static_cast<char*>(into) + half, 0, static_cast<std::size_t>(size - half));
        return code == SQLITE_OK ? SQLITE_IOERR_SHORT_READ : code;
    }
    return how ? SQLITE_IOERR_READ : of->real()->pMethods->xRead(of->real(), into, size, offset);
}

void keep_before(File* of, int size, sqlite3_int64 offset) {
    Before before{offset, std::string(static_cast<std::size_t>(size), '\0'), 0};
    of->real()->pMethods->xFileSize(of->real(), &before.size);
    of->real()->pMethods->xRead(of->real(), before.bytes.data(), size, offset);
    of->disk->unsynced[*of->name].push_back(std::move(before));
}

int write_file(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
    File* of = self(file);
    const auto how = of->disk->strike(Call::kWrite);
    if (how && *how != How::kHalf) {
        return *how == How::kFull ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    }
    if (how) {
        size /= 2;
    }
    if (of->disk->fault && of->disk->fault->how == How::kLosesPage) {
        keep_before(of, size, offset);
    }
    const int code = of->real()->pMethods->xWrite(of->real(), data, size, offset);
    if (code == SQLITE_OK) {
        of->disk->add(
            {Record::Kind::kWrite, *of->name, static_cast<std::uint64_t>(offset),
             std::string(static_cast<const char*>(data), static_cast<std::size_t>(size))});
    }
    return how ? SQLITE_IOERR_WRITE : code;
}

int truncate_file(sqlite3_file* file, sqlite3_int64 size) {
    File* of = self(file);
    if (of->disk->strike(Call::kTruncate)) {
        return SQLITE_IOERR_TRUNCATE;
    }
    const int code = of->real()->pMethods->xTruncate(of->real(), size);
    if (code == SQLITE_OK) {
        of->disk->add({Record::Kind::kTruncate, *of->name, static_cast<std::uint64_t>(size)});
    }
    return code;
}

/// As a kernel that marks pages clean which it could not write.
void lose_pages(File* of) {
    auto& lost = of->disk->unsynced[*of->name];
    for (auto before = lost.rbegin(); before != lost.rend(); ++before) {
        of->real()->pMethods->xWrite(of->real(), before->bytes.data(),
                                     static_cast<int>(before->bytes.size()), before->offset);
        of->real()->pMethods->xTruncate(of->real(), before->size);
    }
    lost.clear();
}

int sync_file(sqlite3_file* file, int flags) {
    File* of = self(file);
    const auto how = of->disk->strike(Call::kSync);
    if (how) {
        if (*how == How::kLosesPage) {
            lose_pages(of);
        }
        return *how == How::kFull ? SQLITE_FULL : SQLITE_IOERR_FSYNC;
    }
    const int code = of->real()->pMethods->xSync(of->real(), flags);
    of->disk->unsynced.erase(*of->name);
    of->disk->add({Record::Kind::kSync, *of->name});
    return code;
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
    File* of = self(file);
    return of->disk->strike(Call::kFileSize) ? SQLITE_IOERR_FSTAT
                                             : of->real()->pMethods->xFileSize(of->real(), size);
}

int lock_file(sqlite3_file* file, int level) {
    File* of = self(file);
    return of->disk->strike(Call::kLock) ? SQLITE_IOERR_LOCK
                                         : of->real()->pMethods->xLock(of->real(), level);
}

int unlock_file(sqlite3_file* file, int level) {
    return self(file)->real()->pMethods->xUnlock(self(file)->real(), level);
}

int check_reserved(sqlite3_file* file, int* reserved) {
    return self(file)->real()->pMethods->xCheckReservedLock(self(file)->real(), reserved);
}

int file_control(sqlite3_file* file, int what, void* with) {
    return self(file)->real()->pMethods->xFileControl(self(file)->real(), what, with);
}

int sector_size(sqlite3_file* file) {
    return self(file)->real()->pMethods->xSectorSize(self(file)->real());
}

int device(sqlite3_file* file) {
    return self(file)->real()->pMethods->xDeviceCharacteristics(self(file)->real());
}

int shm_map(sqlite3_file* file, int page, int size, int extend, void volatile** into) {
    File* of = self(file);
    return of->disk->strike(Call::kShmMap)
               ? SQLITE_IOERR_SHMMAP
               : of->real()->pMethods->xShmMap(of->real(), page, size, extend, into);
}

int shm_lock(sqlite3_file* file, int offset, int count, int flags) {
    File* of = self(file);
    if ((flags & SQLITE_SHM_LOCK) != 0 && of->disk->strike(Call::kShmLock)) {
        return SQLITE_IOERR_SHMLOCK;
    }
    return of->real()->pMethods->xShmLock(of->real(), offset, count, flags);
}

void shm_barrier(sqlite3_file* file) {
    self(file)->real()->pMethods->xShmBarrier(self(file)->real());
}

int shm_unmap(sqlite3_file* file, int remove) {
    return self(file)->real()->pMethods->xShmUnmap(self(file)->real(), remove);
}

// Version 2: with shared memory, without mapped files.
const sqlite3_io_methods kMethods{
    2,         close_file,  read_file,      write_file,   truncate_file, sync_file, file_size,
    lock_file, unlock_file, check_reserved, file_control, sector_size,   device,    shm_map,
    shm_lock,  shm_barrier, shm_unmap,      nullptr,      nullptr};

FaultVfs::Impl* disk_of(sqlite3_vfs* vfs) {
    return static_cast<FaultVfs::Impl*>(vfs->pAppData);
}

int open_file(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* got) {
    FaultVfs::Impl* disk = disk_of(vfs);
    File* of = self(file);
    of->base.pMethods = nullptr;
    if (disk->strike(Call::kOpen)) {
        return SQLITE_CANTOPEN;
    }
    const int code = disk->real->xOpen(disk->real, name, of->real(), flags, got);
    if (code == SQLITE_OK) {
        of->disk = disk;
        of->name = new std::string(base_name(name));
        of->base.pMethods = &kMethods;
    }
    return code;
}

int delete_file(sqlite3_vfs* vfs, const char* name, int sync_folder) {
    FaultVfs::Impl* disk = disk_of(vfs);
    if (disk->strike(Call::kDelete)) {
        return SQLITE_IOERR_DELETE;
    }
    const int code = disk->real->xDelete(disk->real, name, sync_folder);
    if (code == SQLITE_OK) {
        disk->add({Record::Kind::kDelete, base_name(name), 0, "", sync_folder != 0});
    }
    return code;
}

}  // namespace

FaultVfs::FaultVfs() : impl_(std::make_unique<Impl>()) {
    impl_->real = sqlite3_vfs_find(nullptr);
    impl_->vfs = *impl_->real;  // What is not of interest goes straight to it.
    impl_->vfs.pNext = nullptr;
    impl_->vfs.zName = kName;
    impl_->vfs.pAppData = impl_.get();
    impl_->vfs.szOsFile = static_cast<int>(sizeof(File)) + impl_->real->szOsFile;
    impl_->vfs.xOpen = open_file;
    impl_->vfs.xDelete = delete_file;
    if (sqlite3_vfs_register(&impl_->vfs, 1) != SQLITE_OK) {
        throw std::runtime_error("SQLite takes no other file system");
    }
}

FaultVfs::~FaultVfs() {
    sqlite3_vfs_unregister(&impl_->vfs);
}

void FaultVfs::fail(Fault fault) {
    impl_->fault = fault;
    impl_->seen = 0;
    impl_->failed = false;
}

void FaultVfs::heal() {
    impl_->fault.reset();
    impl_->unsynced.clear();
}

bool FaultVfs::failed() const {
    return impl_->failed;
}

void FaultVfs::record() {
    impl_->recording = true;
}

void FaultVfs::mark(std::uint64_t number) {
    impl_->add({Record::Kind::kMark, "", number});
}

const std::vector<Record>& FaultVfs::records() const {
    return impl_->records;
}

}  // namespace sigmacast::storage
