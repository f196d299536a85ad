#include "storage/database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/state_file.h"

namespace sigmacast::storage {
namespace {

constexpr int kBusyTimeoutMs = 5000;

Errc errc_of(int code) {
    if (code == SQLITE_CONSTRAINT_PRIMARYKEY || code == SQLITE_CONSTRAINT_ROWID ||
        code == SQLITE_CONSTRAINT_UNIQUE) {
        return Errc::kConflict;
    }
    switch (code & 0xFF) {
        case SQLITE_FULL:
            return Errc::kFull;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
        case SQLITE_IOERR:
        case SQLITE_READONLY:
        case SQLITE_CANTOPEN:
        case SQLITE_PERM:
            return Errc::kUnavailable;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
            return Errc::kCorrupt;
        case SQLITE_TOOBIG:
            return Errc::kTooLarge;
        case SQLITE_CONSTRAINT:
        case SQLITE_MISMATCH:
            return Errc::kInvalid;
        default:
            return Errc::kInternal;
    }
}

/// SQLite knows of a full disk only, not of a quota.
bool has_no_room(int system_error) {
    return system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG;
}

Error error_of(sqlite3* db, int code) {
    const char* path = sqlite3_db_filename(db, "main");
    const bool full = (code & 0xFF) == SQLITE_IOERR && has_no_room(sqlite3_system_errno(db));
    return {
        full ? Errc::kFull : errc_of(code),
        std::string(path != nullptr && *path != 0 ? path : "database") + ": " + sqlite3_errmsg(db)};
}

int on_wal(void* pages, sqlite3*, const char*, int count) {
    *static_cast<int*>(pages) = count;
    return SQLITE_OK;
}

Result<> create_private(const std::string& path) {
    const bool made = ::access(path.c_str(), F_OK) != 0;
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file < 0) {
        return Error{Errc::kUnavailable,
                     path + ": cannot be opened for writing: " + std::strerror(errno) +
                         "; check the folder and its owner"};
    }
    ::close(file);
    return made ? sync_folder_of(path) : Result<>();
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
    sqlite3_finalize(statement);
}

void Statement::rewind() {
    sqlite3_reset(statement_.get());
}

Result<bool> Statement::step() {
    if (bind_error_ != SQLITE_OK) {
        return Error{errc_of(bind_error_), sqlite3_errstr(bind_error_)};
    }
    const int code = sqlite3_step(statement_.get());
    if (code == SQLITE_ROW) {
        return true;
    }
    if (code == SQLITE_DONE) {
        rewind();
        return false;
    }
    Error error = error_of(db_, code);
    rewind();
    return error;
}

std::int64_t Statement::integer(int column) const {
    return sqlite3_column_int64(statement_.get(), column);
}

std::uint64_t Statement::natural(int column) const {
    return static_cast<std::uint64_t>(integer(column));
}

bool Statement::is_text(int column) const {
    return sqlite3_column_type(statement_.get(), column) == SQLITE_TEXT;
}

std::string_view Statement::bytes(int column) const {
    const void* data = sqlite3_column_blob(statement_.get(), column);
    const int size = sqlite3_column_bytes(statement_.get(), column);
    return data == nullptr
               ? std::string_view{}
               : std::string_view(static_cast<const char*>(data), static_cast<std::size_t>(size));
}

bool Statement::null(int column) const {
    return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

void Statement::bind_one(int index, std::int64_t value) {
    sqlite3_bind_int64(statement_.get(), index, value);
}

void Statement::bind_one(int index, std::uint64_t value) {
    sqlite3_bind_int64(statement_.get(), index, static_cast<std::int64_t>(value));
}

void Statement::bind_one(int index, std::string_view text) {
    const int code =
        sqlite3_bind_text64(statement_.get(), index, text.data() == nullptr ? "" : text.data(),
                            text.size(), SQLITE_STATIC, SQLITE_UTF8);
    bind_error_ = code != SQLITE_OK ? code : bind_error_;
}

void Statement::clear_one(int index) {
    sqlite3_bind_null(statement_.get(), index);
}

void Statement::bind_one(int index, Blob blob) {
    const int code = sqlite3_bind_blob64(statement_.get(), index,
                                         blob.bytes.data() == nullptr ? "" : blob.bytes.data(),
                                         blob.bytes.size(), SQLITE_STATIC);
    bind_error_ = code != SQLITE_OK ? code : bind_error_;
}

void Database::Close::operator()(sqlite3* db) const {
    sqlite3_close_v2(db);
}

Database::Database(std::unique_ptr<sqlite3, Close> db, std::string path)
    : wal_pages_(std::make_unique<int>(0)), db_(std::move(db)), path_(std::move(path)) {}

Result<Database> Database::open(const std::string& path, Mode mode) {
    const bool write = mode == Mode::kWrite;
    if (write) {
        if (auto created = create_private(path); !created) {
            return created.error();
        }
    } else if (::access(path.c_str(), F_OK) != 0) {
        return Error{Errc::kNotFound, path + ": there is no such database yet"};
    }
    sqlite3* handle = nullptr;
    const int flags = (write ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY) | SQLITE_OPEN_NOMUTEX |
                      SQLITE_OPEN_EXRESCODE;
    const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
    std::unique_ptr<sqlite3, Close> owned(handle);
    if (code != SQLITE_OK) {
        return Error{errc_of(code), path + ": " + sqlite3_errstr(code)};
    }
    Database db(std::move(owned), path);
    sqlite3_busy_timeout(handle, kBusyTimeoutMs);
    const char* pragmas = write ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                                  "PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF;"
                                  "PRAGMA cell_size_check=ON"
                                : "PRAGMA query_only=ON; PRAGMA trusted_schema=OFF;"
                                  "PRAGMA cell_size_check=ON";
    if (auto set = db.execute(pragmas); !set) {
        return set.error();
    }
    if (write) {
        // The hook takes the place of SQLite's own checkpoints: the writer runs them between
        // batches.
        sqlite3_wal_hook(handle, on_wal, db.wal_pages_.get());
    }
    return db;
}

Result<> Database::execute(const std::string& sql) {
    const int code = sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) {
        return error_of(db_.get(), code);
    }
    return {};
}

Result<Statement> Database::prepare(std::string_view sql) {
    sqlite3_stmt* statement = nullptr;
    const int code = sqlite3_prepare_v3(db_.get(), sql.data(), static_cast<int>(sql.size()),
                                        SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) {
        return error_of(db_.get(), code);
    }
    return Statement(db_.get(), statement);
}

Result<std::int64_t> Database::number(std::string_view sql) {
    auto statement = prepare(sql);
    if (!statement) {
        return statement.error();
    }
    const auto row = statement->step();
    if (!row) {
        return row.error();
    }
    return *row ? statement->integer(0) : 0;
}

Result<> Database::check() {
    auto check = prepare("PRAGMA integrity_check(1)");
    if (!check) {
        return check.error();
    }
    const auto row = check->step();
    if (!row) {
        return row.error();
    }
    if (*row && check->bytes(0) != "ok") {
        return Error{Errc::kCorrupt, path_ + ": " + check->text(0)};
    }
    return {};
}

Result<> Database::checkpoint() {
    sqlite3_busy_timeout(db_.get(), 0);
    const int code =
        sqlite3_wal_checkpoint_v2(db_.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
    Result<> done;
    if (code == SQLITE_OK) {
        *wal_pages_ = 0;
    } else if ((code & 0xFF) != SQLITE_BUSY && (code & 0xFF) != SQLITE_LOCKED) {
        done = error_of(db_.get(), code).within("the write-ahead log cannot be copied");
    }
    sqlite3_busy_timeout(db_.get(), kBusyTimeoutMs);
    return done;
}

void Database::limit_row_bytes(int bytes) {
    sqlite3_limit(db_.get(), SQLITE_LIMIT_LENGTH, bytes);
}

Result<Transaction> Transaction::begin(Database& db) {
    if (auto begun = db.execute("BEGIN IMMEDIATE"); !begun) {
        return begun.error();
    }
    return Transaction(&db);
}

Transaction::~Transaction() {
    if (db_ != nullptr) {
        // SQLite may have rolled back by itself (disk full); then this fails, and there is nothing
        // to do.
        static_cast<void>(db_->execute("ROLLBACK"));
    }
}

Result<> Transaction::commit() {
    if (auto done = db_->execute("COMMIT"); !done) {
        return done.error();
    }
    db_ = nullptr;
    return {};
}

}  // namespace sigmacast::storage
