// SQLite's C API behind three small owners: a connection, a prepared statement, a transaction.
// Nothing here knows what is stored.
//
//     auto db = Database::open(path, Database::Mode::kWrite);
//     Statement insert = db->prepare("INSERT INTO log VALUES (?, ?)").value();
//     insert.run(pos, Blob{header});
//
// Write mode creates the file with permission 0600 and sets WAL, synchronous=FULL (NORMAL loses
// acknowledged commits at a power cut) and a busy timeout. SQLite 3.40 has a bug where a second
// writing connection may corrupt the WAL, so a process holds exactly one; everybody else opens
// read-only. One connection belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace sigmacast::storage {

/// Bytes, to be bound as a BLOB rather than as TEXT. Not owned.
struct Blob {
    std::string_view bytes;
};

struct Null {};

/// A prepared statement. Must not outlive its Database.
class Statement {
 public:
    Statement(sqlite3* db, sqlite3_stmt* statement) : db_(db), statement_(statement) {}

    /// Binds all parameters, in order, and rewinds. What is bound as text or blob must live until
    /// the last step().
    template <class... Values>
    void bind(const Values&... values) {
        rewind();
        bind_error_ = 0;
        int index = 0;
        (bind_one(++index, values), ...);
    }
    /// True: there is a row. False: done (and rewound).
    Result<bool> step();
    /// step() to the end; `take` is called for each row.
    template <class Take>
    Result<> each(Take take) {
        for (;;) {
            const Result<bool> row = step();
            if (!row) {
                return row.error();
            }
            if (!*row) {
                return {};
            }
            take();
        }
    }
    /// bind() and step() to the end; rows are ignored.
    template <class... Values>
    Result<> run(const Values&... values) {
        bind(values...);
        return each([] {});
    }
    void rewind();

    /// Columns of the row that step() found, from 0.
    [[nodiscard]] std::int64_t integer(int column) const;
    [[nodiscard]] std::uint64_t natural(int column) const;
    /// Text or blob; valid until the next step().
    [[nodiscard]] std::string_view bytes(int column) const;
    [[nodiscard]] std::string text(int column) const { return std::string(bytes(column)); }
    [[nodiscard]] bool null(int column) const;
    /// Stored as TEXT, in a column that has nothing else: a bit that says BLOB is in no checksum.
    /// To be asked before the column is read.
    [[nodiscard]] bool is_text(int column) const;

 private:
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const;
    };
    void bind_one(int index, std::int64_t value);
    void bind_one(int index, std::uint64_t value);
    void bind_one(int index, std::string_view text);
    void bind_one(int index, const std::string& text) { bind_one(index, std::string_view(text)); }
    void bind_one(int index, const char* text) { bind_one(index, std::string_view(text)); }
    void bind_one(int index, Blob blob);
    void bind_one(int index, Null) { clear_one(index); }
    void clear_one(int index);

    sqlite3* db_;
    std::unique_ptr<sqlite3_stmt, Finalize> statement_;
    int bind_error_ = 0;  // A parameter was over the row limit: step() refuses.
};

/// SQLite's own choice for a new file.
inline constexpr std::uint64_t kPageBytes = 4096;

class Database {
 public:
    enum class Mode { kWrite, kRead };

    /// Errors: kNotFound (read mode, no such file), kUnavailable, kCorrupt (not a database), naming
    /// the file.
    static Result<Database> open(const std::string& path, Mode mode);

    Result<> execute(const std::string& sql);
    Result<Statement> prepare(std::string_view sql);
    /// The first column of the first row of a query, or 0.
    Result<std::int64_t> number(std::string_view sql);
    /// SQLite's own look at every page. Errors: kCorrupt, with what it found first.
    Result<> check();
    /// Copies the WAL into the database and truncates it. Does not wait for readers, which is no
    /// error: a later call goes on.
    Result<> checkpoint();
    /// Pages in the WAL after the last commit.
    [[nodiscard]] int wal_pages() const { return *wal_pages_; }
    [[nodiscard]] const std::string& path() const { return path_; }
    /// The largest row that is taken; a larger one is refused as kTooLarge.
    void limit_row_bytes(int bytes);

 private:
    struct Close {
        void operator()(sqlite3* db) const;
    };
    Database(std::unique_ptr<sqlite3, Close> db, std::string path);

    std::unique_ptr<int> wal_pages_;  // Its address is given to SQLite.
    std::unique_ptr<sqlite3, Close> db_;
    std::string path_;
};

/// Rolls back unless committed.
class Transaction {
 public:
    static Result<Transaction> begin(Database& db);
    Transaction(Transaction&& other) noexcept : db_(other.db_) { other.db_ = nullptr; }
    Transaction& operator=(Transaction&&) = delete;
    ~Transaction();
    Result<> commit();

 private:
    explicit Transaction(Database* db) : db_(db) {}
    Database* db_;
};

}  // namespace sigmacast::storage
