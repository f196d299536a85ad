// A damaged database: what is read from it is what was once written, or is said to be lost.
//
// Input: edits of eight bytes or so (Edit), applied to a small database, as rot or a bug would.
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>

#include "common/log.h"
#include "storage/reader.h"
#include "storage/store.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/temp_folder.h"

namespace sigmacast::storage {
namespace {

using fuzz::require;

const Now kWritten{Mono{Seconds{1'000}}, Wall{Seconds{1'795'219'106}}};
const Now kRead{kWritten.mono + Millis{90'000}, kWritten.wall + Millis{90'000}};
constexpr const char* kBoot = "boot";
constexpr std::size_t kEditsMax = 16;

struct Table {
    const char* name;
    const char* key;
    std::vector<const char*> columns;
};
const std::vector<Table>& tables() {
    static const std::vector<Table> all{
        {"log",
         "pos",
         {"pos", "stream", "seq", "kind", "at_ms", "boot", "mono_us", "header", "body", "crc"}},
        {"state",
         "stream, key",
         {"stream", "key", "seq", "pos", "at_ms", "boot", "mono_us", "header", "body", "crc"}},
        {"polls", "origin, poll", {"origin", "poll", "at_ms", "boot", "mono_us", "header", "crc"}},
        {"streams",
         "id",
         {"id", "origin", "topic", "kind", "seq", "epoch", "pseq", "floor_pos", "floor_seq"}},
        {"origins", "id", {"id", "name", "epoch", "instance"}},
        {"boots", "id", {"id", "boot"}},
        {"meta", "key", {"key", "value"}}};
    return all;
}

Bytes packed(std::string_view text) {
    std::string map("\x81\xA1v", 3);
    map += static_cast<char>(0xA0 + text.size());
    return std::make_shared<const std::string>(map.append(text));
}

/// What was written, and the file that holds it.
struct Original {
    std::map<std::uint64_t, Message> rows;                                // By pos.
    std::map<std::pair<std::string, std::string>, std::uint64_t> newest;  // (topic, key) -> pos
    Report report;
    std::string file;
};

Message row(Kind kind, const std::string& topic, const std::string& key, std::uint64_t seq,
            std::uint64_t pos) {
    Message message;
    message.kind = kind;
    message.origin = "nas";
    message.topic = topic;
    message.key = key;
    message.poll = kind == Kind::kValue ? "p" : "";
    message.seq = seq;
    message.pos = pos;
    message.age.quality = Quality::kLive;
    const Millis age{100 * (pos % 1'000)};
    message.age.as_of = AsOf{kWritten.wall - age, kWritten.mono - age};
    message.at = kWritten.wall;
    message.data = packed("value " + std::to_string(pos));
    return message;
}

Batch batch_of(std::vector<Message> rows) {
    Batch batch;
    batch.now = kWritten;
    batch.rows = std::move(rows);
    return batch;
}

std::string read_file(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

Original make_original(const std::string& path) {
    Original original;
    std::vector<Message> rows;
    std::uint64_t pos = 0;
    for (std::uint64_t seq = 1; seq <= 3; ++seq) {
        for (const char* key : {"a", "b"}) {
            rows.push_back(row(Kind::kValue, "jobs", key, 2 * seq - (*key == 'a'), ++pos));
        }
        rows.push_back(row(Kind::kEvent, "rpc_error", "", seq, ++pos));
    }
    for (const Message& message : rows) {
        original.rows[message.pos] = message;
        if (message.kind == Kind::kValue) {
            original.newest[{message.topic, message.key}] = message.pos;
        }
    }
    original.report.poll = "p";
    original.report.topic = "jobs";
    original.report.ok = true;
    original.report.as_of = AsOf{kWritten.wall, kWritten.mono};
    original.report.interval = Millis{5'000};
    Batch batch = batch_of(std::move(rows));
    batch.origins = {{"nas", 7, "i"}};
    batch.positions = {{"nas", "jobs", StreamKind::kState, 7, 6}};
    batch.polls = {{"nas", original.report, 3, row(Kind::kValue, "jobs", "", 1, 1).age}};
    {
        const auto store = Store::open(path, kWritten, kBoot).value();
        store->commit(batch).value();
        store->checkpoint().value();
    }
    original.file = read_file(path);
    return original;
}

/// A folder in memory, where there is one: each input is a file of its own.
struct Place {
    Place() : folder(set_folder()), path(folder.file("x.db")), original(make_original(path)) {}
    static TempFolder set_folder() {
        if (std::filesystem::is_directory("/dev/shm")) {
            ::setenv("TMPDIR", "/dev/shm", 1);
        }
        log_start("fuzz", "error");
        return TempFolder();
    }
    TempFolder folder;
    const std::string path;
    const Original original;
};

Place& place() {
    static Place made;
    return made;
}

struct CloseSqlite {
    void operator()(sqlite3* db) const { sqlite3_close(db); }
};

/// One byte says what, then: which table, row and column; a value follows.
class Edits {
 public:
    explicit Edits(fuzz::Input input) : input_(input) {}

    void apply(const Place& place) {
        {
            std::ofstream stream(place.path, std::ios::binary | std::ios::trunc);
            stream << place.original.file;
        }
        std::filesystem::remove(place.path + "-wal");
        std::filesystem::remove(place.path + "-shm");
        sqlite3* opened = nullptr;
        sqlite3_open(place.path.c_str(), &opened);
        db_.reset(opened);
        sqlite3_exec(opened, "PRAGMA synchronous=OFF", nullptr, nullptr, nullptr);
        for (std::size_t i = 0; i < kEditsMax && !input_.empty(); ++i) {
            edit();
        }
        db_.reset();
        spoil(place.path);
    }

 private:
    void edit() {
        const std::uint8_t what = input_.byte();
        if (what % 8 == 7) {
            const auto at = static_cast<std::size_t>(input_.byte()) << 8 | input_.byte();
            spoiled_.emplace_back(at, input_.byte());
            return;
        }
        const Table& table = tables()[input_.byte() % tables().size()];
        const std::uint8_t where = input_.byte();
        const std::string column = table.columns[input_.byte() % table.columns.size()];
        const std::string name = table.name;
        const std::string key = table.key;
        const std::string chosen = " WHERE (" + key + ") = (SELECT " + key + " FROM " + name +
                                   " LIMIT 1 OFFSET " + std::to_string(where % 9) + ")";
        if (what % 8 == 6) {
            run("DELETE FROM " + name + chosen, 0);
        } else if (what % 8 == 5) {  // One byte of a blob.
            const std::string at = std::to_string(input_.byte() + 1);
            run("UPDATE OR IGNORE " + name + " SET " + column + " = substr(" + column + ", 1, " +
                    at + " - 1) || ? || substr(" + column + ", " + at + " + 1)" + chosen,
                3);
        } else {
            run("UPDATE OR IGNORE " + name + " SET " + column + " = ?" + chosen, what % 8);
        }
    }

    void run(const std::string& sql, int type) {
        sqlite3_stmt* statement = nullptr;
        if (sqlite3_prepare_v2(db_.get(), sql.c_str(), -1, &statement, nullptr) == SQLITE_OK) {
            if (type == 1) {
                sqlite3_bind_int64(statement, 1, static_cast<std::int64_t>(input_.number()));
            } else if (type == 2) {
                sqlite3_bind_double(statement, 1, static_cast<double>(input_.number()));
            } else if (type == 3 || type == 4) {
                const std::string_view bytes =
                    input_.take(sql.find("substr") == std::string::npos ? input_.byte() : 1);
                const char* data = bytes.data() == nullptr ? "" : bytes.data();
                const int length = static_cast<int>(bytes.size());
                if (type == 3) {
                    sqlite3_bind_blob(statement, 1, data, length, SQLITE_TRANSIENT);
                } else {
                    sqlite3_bind_text(statement, 1, data, length, SQLITE_TRANSIENT);
                }
            }
            sqlite3_step(statement);
        }
        sqlite3_finalize(statement);
    }

    void spoil(const std::string& path) {
        if (spoiled_.empty()) {
            return;
        }
        std::fstream stream(path, std::ios::binary | std::ios::in | std::ios::out);
        const auto size = std::filesystem::file_size(path);
        for (const auto& [at, byte] : spoiled_) {
            stream.seekp(static_cast<std::streamoff>(at % size));
            stream.put(static_cast<char>(byte));
        }
    }

    fuzz::Input input_;
    std::unique_ptr<sqlite3, CloseSqlite> db_;
    std::vector<std::pair<std::size_t, std::uint8_t>> spoiled_;
};

/// A row that was read back: the one that was written at its position, or a gap.
void check_row(const Original& original, const Message& read) {
    if (read.kind == Kind::kGap) {
        return;
    }
    const auto written = original.rows.find(read.pos);
    require(written != original.rows.end(), "no row comes from nowhere", std::to_string(read.pos));
    const Message& row = written->second;
    require(read.kind == row.kind && read.origin == row.origin && read.topic == row.topic &&
                read.key == row.key && read.seq == row.seq,
            "a row is the one that was written", row.topic);
    require(read.data && *read.data == *row.data, "with its data");
    require(read.age.as_of && read.age.as_of->wall == row.age.as_of->wall, "and its time");
    require(read.age.uncertain || read.age.as_of->mono == row.age.as_of->mono,
            "and its age, or it is said to be a guess");
}

void check_loaded(const Original& original, const Loaded& loaded, bool repaired) {
    require(!loaded.epoch.empty(), "a log has an epoch");
    std::map<std::pair<std::string, std::string>, int> seen;
    for (const Message& value : loaded.values) {
        require(value.kind == Kind::kValue, "state is made of values");
        check_row(original, value);
        require(++seen[{value.topic, value.key}] == 1, "one value a key", value.key);
        require(original.newest.at({value.topic, value.key}) == value.pos || repaired,
                "an older value is said to be a repair", value.key);
    }
    for (const PollState& poll : loaded.polls) {
        require(poll.report.poll == original.report.poll &&
                    poll.report.topic == original.report.topic &&
                    poll.report.as_of->wall == original.report.as_of->wall,
                "a report is the one that was written", poll.report.poll);
    }
}

void check_reader(const Original& original, const std::string& path) {
    auto reader = LogReader::open(path, kBoot);
    if (!reader) {
        return;
    }
    for (const char* topic : {"jobs", "rpc_error"}) {
        if (const auto range = reader->range("nas", topic, {1, 100}, kRead)) {
            for (const Message& message : range->items) {
                check_row(original, message);
            }
        }
    }
    for (const auto& read : {reader->read({}, kRead), reader->state(kRead)}) {
        for (std::size_t i = 0; read && i < read->size(); ++i) {
            check_row(original, (*read)[i].message);
        }
    }
    (void)reader->streams();
}

void run(fuzz::Input input) {
    Place& here = place();
    Edits(input).apply(here);
    check_reader(here.original, here.path);
    auto store = Store::open(here.path, kRead, kBoot);
    if (!store) {
        require(store.error().message.size() > 3, "a refusal says why");
        return;
    }
    const Loaded loaded = (*store)->take_loaded();
    check_loaded(here.original, loaded, !(*store)->repairs().empty());
    (void)(*store)->trim(kRead, {Millis{1'000'000}, Millis{1'000'000}, 1});
    std::uint64_t seq = 0;
    for (const StreamRecord& stream : loaded.streams) {
        seq = stream.topic == "jobs" && stream.origin == "nas" ? stream.seq : seq;
    }
    (void)(*store)->commit(batch_of({row(Kind::kValue, "jobs", "a", seq + 1, loaded.pos + 1)}));
}

}  // namespace
}  // namespace sigmacast::storage

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    sigmacast::storage::run({data, size});
    return 0;
}
