// What a start makes of a damaged database: flipped bits on every page, files that were cut off or
// emptied, rows that were lost, swapped or replaced, and the numbers that no row can have. It never
// crashes, never gives a wrong value, and says what it did.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "common/log.h"
#include "common/state_file.h"
#include "storage/reader.h"
#include "storage/rows.h"
#include "storage/salvage.h"
#include "temp_folder.h"
#include "tests/unit/store_truth.h"

namespace sigmacast::storage {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kBoot = "boot-a";

std::string read_file(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

void write_file(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
}

bool quiet() {
    log_start("test", "off");
    return fs::is_directory("/dev/shm") && ::setenv("TMPDIR", "/dev/shm", 1) == 0;
}

class DamageTest : public testing::Test {
 protected:
    DamageTest() : truth_(11) {
        open();
        truth_.opened(loaded_);
        for (int i = 0; i < 40; ++i) {
            truth_.batch(*store_);
            truth_.advance(Seconds{1});
        }
        truth_.trim(*store_, Seconds{30});  // So that there are free pages, too.
        close();
        file_ = read_file(path_);
    }

    void open() {
        store_.reset();
        auto opened = Store::open(path_, truth_.now(), kBoot);
        ASSERT_TRUE(opened) << opened.error().message;
        store_ = std::move(*opened);
        loaded_ = store_->take_loaded();
    }
    void close() {
        store_->checkpoint().value();
        store_.reset();
    }
    /// As it was before any damage, alone in its folder.
    void restore() {
        store_.reset();
        for (const auto& entry : fs::directory_iterator(folder_.file(""))) {
            if (entry.path().filename() != "s.db.reserve") {
                fs::remove_all(entry.path());
            }
        }
        write_file(path_, file_);
    }
    void execute(const std::string& sql) {
        Database db = Database::open(path_, Database::Mode::kWrite).value();
        db.execute("PRAGMA foreign_keys=OFF").value();
        db.execute(sql).value();
    }
    std::vector<std::string> put_aside() {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder_.file(""))) {
            const std::string name = entry.path().filename();
            if (name.starts_with("s.db.damaged-") && !name.ends_with("-wal")) {
                names.push_back(name);
            }
        }
        return names;
    }
    /// Nothing silently wrong, and it takes the next batch.
    void expect_sound(const std::string& what) {
        EXPECT_EQ("", truth_.judge(path_, truth_.steps(), Truth::Harm::kLoud)) << what;
        expect_quiet(what);
    }
    /// What was repaired is not found again, but for holes in the log.
    void expect_quiet(const std::string& what) {
        open();
        EXPECT_THAT(store_->repairs(), Each(HasSubstr("0 are damaged, 0 are not"))) << what;
        store_.reset();
    }

    const bool quiet_ = quiet();
    TempFolder folder_;
    std::string path_ = folder_.file("s.db");
    Truth truth_;
    std::unique_ptr<Store> store_;
    Loaded loaded_;
    std::string file_;
};

TEST_F(DamageTest, ABitThatFlipsAnywhereIsNoticedOrHarmless) {
    ASSERT_GT(file_.size(), 50 * kPageBytes);
    const int flips = std::getenv("SIGMACAST_ALL_FAULTS") != nullptr ? 5'000 : 120;
    for (int i = 0; i < flips && !HasFailure(); ++i) {
        restore();
        std::string file = file_;
        // Each page in its turn, and on it its header, which says what kind of page it is, often.
        const std::size_t page = static_cast<std::size_t>(i) % (file.size() / kPageBytes);
        const std::size_t at =
            page * kPageBytes + truth_.random(truth_.random(2) == 0 ? 16 : kPageBytes);
        const auto bit = static_cast<unsigned char>(1U << truth_.random(8));
        file[at] = static_cast<char>(static_cast<unsigned char>(file[at]) ^ bit);
        write_file(path_, file);
        expect_sound("bit " + std::to_string(bit) + " of byte " + std::to_string(at));
    }
}

TEST_F(DamageTest, APageThatIsAnotherPagesOrOlderIsNoticed) {
    for (int i = 0; i < 30 && !HasFailure(); ++i) {
        restore();
        std::string file = file_;
        const std::uint64_t pages = file.size() / kPageBytes;
        const std::size_t to = (1 + truth_.random(pages - 1)) * kPageBytes;
        const std::size_t from = truth_.random(pages) * kPageBytes;
        file.replace(to, kPageBytes, file_, from, kPageBytes);
        write_file(path_, file);
        expect_sound("page " + std::to_string(to / kPageBytes));
    }
}

TEST_F(DamageTest, AFileThatWasCutOffIsSalvagedAndTheOldOneKept) {
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{50}, std::size_t{4095}, std::size_t{4096},
          std::size_t{20'000}, file_.size() / 2, file_.size() - 4096}) {
        restore();
        write_file(path_, file_.substr(0, size));
        open();
        EXPECT_THAT(store_->repairs(), Contains(HasSubstr("damaged"))) << size;
        EXPECT_NE(truth_.epoch(), loaded_.epoch) << size;
        store_.reset();
        ASSERT_EQ(1U, put_aside().size()) << size;
        EXPECT_EQ(file_.substr(0, size), read_file(folder_.file(put_aside()[0]))) << size;
        expect_quiet(std::to_string(size) + " bytes");
    }
    restore();
    write_file(path_, file_.substr(0, file_.size() - 1));  // Half a page.
    expect_sound("a byte less");
}

TEST_F(DamageTest, WhatCanBeReadOfADamagedFileBeginsTheNewOne) {
    open();
    const std::size_t values = loaded_.values.size();
    const std::uint64_t pos = loaded_.pos;
    store_.reset();
    execute("UPDATE streams SET pseq = pseq + 1000 WHERE topic = 'alerts'");  // Would hide events.
    open();
    EXPECT_EQ(values, loaded_.values.size());
    EXPECT_LE(pos, loaded_.pos);
    EXPECT_NE(truth_.epoch(), loaded_.epoch);
    for (const StreamRecord& stream : loaded_.streams) {
        EXPECT_LT(stream.pseq, 1000U);
    }
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr(std::to_string(values) + " values")));
    store_.reset();
    expect_quiet("a stream");
}

TEST_F(DamageTest, AnEmptyDatabaseWithALogBesideItIsPutAsideAndSaid) {
    restore();
    write_file(path_, "");
    write_file(path_ + "-wal", file_.substr(0, 9000));
    open();
    EXPECT_EQ(0U, loaded_.pos);
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("the database is empty")));
    EXPECT_EQ(1U, put_aside().size());
    restore();
    fs::remove(path_);
    write_file(path_ + "-wal", file_.substr(0, 9000));
    open();
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("the database is gone")));
}

TEST_F(DamageTest, AnEmptyOrDamagedWriteAheadLogOrIndexHarmsNothing) {
    for (const char* part : {"-wal", "-shm"}) {
        for (const std::string& content :
             {std::string(), std::string("x"), std::string(40'000, 'x'), file_.substr(0, 32'768)}) {
            restore();
            write_file(path_ + part, content);
            EXPECT_EQ("", truth_.judge(path_, truth_.steps())) << part << " " << content.size();
        }
    }
}

TEST_F(DamageTest, ARowThatIsReplacedByAnOlderOneIsAGapAtTheNextStart) {
    execute("CREATE TABLE kept AS SELECT * FROM log WHERE stream = 1 ORDER BY seq DESC LIMIT 2");
    // Each has a right checksum of its own; that of the older one is not the one the newer knows.
    execute("UPDATE log SET body = x'80', crc = 0 WHERE pos = (SELECT min(pos) FROM kept)");
    execute("DROP TABLE kept");
    EXPECT_EQ("", truth_.judge(path_, truth_.steps(), Truth::Harm::kLoud));
}

TEST_F(DamageTest, ALostRowInTheMiddleOfTheLogIsReadAsAGapAndSaid) {
    execute(
        "DELETE FROM log WHERE stream = 1 AND seq = (SELECT max(seq) - 1 FROM log "
        "WHERE stream = 1)");
    open();
    EXPECT_EQ(truth_.epoch(), loaded_.epoch);
    EXPECT_THAT(store_->repairs(), ElementsAre(HasSubstr("1 are missing")));
    const StreamRecord stream = loaded_.streams.at(0);
    const LogRange found = LogReader::open(path_, kBoot)
                               .value()
                               .range(stream.origin, stream.topic, {1, stream.seq}, truth_.now())
                               .value();
    const Message& gap = found.items.at(found.items.size() - 2);
    EXPECT_EQ(Kind::kGap, gap.kind);
    EXPECT_EQ(stream.seq - 1, gap.seq);
    EXPECT_EQ(stream.seq - 1, gap.gap().to);
}

TEST_F(DamageTest, ALostValueIsFoundByTheSumAndTakenFromTheLog) {
    open();
    const std::size_t values = loaded_.values.size();
    store_.reset();
    execute("DELETE FROM state WHERE key = (SELECT key FROM state ORDER BY pos DESC LIMIT 1)");
    open();
    EXPECT_EQ(values, loaded_.values.size());
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("rows of the state are gone")));
}

TEST_F(DamageTest, ALostStreamIsFoundByTheSumAndTakenFromTheLog) {
    execute("DELETE FROM streams WHERE topic = 'jobs'");
    open();
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("rows of streams or origins are gone")));
    bool found = false;
    for (const StreamRecord& stream : loaded_.streams) {
        found = found || stream.topic == "jobs";
    }
    EXPECT_TRUE(found);
    store_.reset();
    expect_quiet("a stream");
}

TEST_F(DamageTest, AnIndexThatLacksRowsIsMadeAnew) {
    execute("PRAGMA writable_schema=ON");
    {
        Database db = Database::open(path_, Database::Mode::kWrite).value();
        db.execute(
              "PRAGMA writable_schema=ON; "
              "CREATE TABLE rows AS SELECT * FROM log WHERE stream = 1; "
              "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX log_by_stream ON log "
              "(stream, seq) WHERE seq > 1000' WHERE name = 'log_by_stream'; "
              "PRAGMA schema_version=100")
            .value();
    }
    {
        Database db = Database::open(path_, Database::Mode::kWrite).value();
        // With this index a row goes in without an entry.
        db.execute(
              "DELETE FROM log WHERE pos = (SELECT max(pos) - 3 FROM log); "
              "DROP TABLE rows; PRAGMA writable_schema=ON; "
              "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX log_by_stream ON log "
              "(stream, seq)' WHERE name = 'log_by_stream'; PRAGMA schema_version=101")
            .value();
    }
    EXPECT_EQ("", truth_.judge(path_, truth_.steps(), Truth::Harm::kLoud));
}

TEST_F(DamageTest, APositionThatNoRowCanHaveIsRemovedAndTheLogGoesOn) {
    for (const char* number : {"9223372036854775807", "-5"}) {
        restore();
        execute("UPDATE log SET pos = " + std::string(number) +
                " WHERE pos = (SELECT max(pos) - 1 FROM log)");
        open();
        EXPECT_THAT(store_->repairs(), Contains(HasSubstr("impossible positions")));
        Batch batch;
        batch.now = truth_.now();
        Message& event = batch.rows.emplace_back();
        event.kind = Kind::kEvent;
        event.origin = "nas";
        event.topic = "new";
        event.seq = 1;
        event.pos = loaded_.pos + 1;
        EXPECT_TRUE(store_->commit(batch));
        store_.reset();
    }
}

TEST_F(DamageTest, AnotherProgramsFileIsLeftAlone) {
    restore();
    fs::remove(path_ + ".reserve");
    write_file(path_, std::string(9000, 'x'));
    const auto refused = Store::open(path_, truth_.now(), kBoot);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, HasSubstr("is not a database of Sigmacast"));
    EXPECT_EQ(std::string(9000, 'x'), read_file(path_));
}

TEST_F(DamageTest, ASalvageThatIsCutOffIsFinishedOrBegunAnew) {
    restore();
    write_file(path_ + ".salvaged", "half of it");
    EXPECT_EQ("", truth_.judge(path_, truth_.steps()));
    EXPECT_FALSE(fs::exists(path_ + ".salvaged"));
    // The new file was ready; its name still belonged to the old one.
    restore();
    fs::rename(path_, path_ + ".ready");
    write_file(path_, "the damaged one");
    write_file(path_ + "-wal", "and its log, which must not meet the new one");
    open();
    EXPECT_EQ(truth_.epoch(), loaded_.epoch);
    EXPECT_EQ(1U, put_aside().size());
}

TEST_F(DamageTest, ADatabaseThatIsSuspectIsLookedAtPageByPage) {
    restore();
    suspect(path_);
    EXPECT_EQ("", truth_.judge(path_, truth_.steps()));
    EXPECT_FALSE(is_suspect(path_)) << "it was right";
}

TEST_F(DamageTest, ADatabaseOfTheFirstSchemaGetsItsChain) {
    execute(
        "UPDATE log SET prev = NULL; ALTER TABLE log DROP COLUMN prev; "
        "ALTER TABLE streams DROP COLUMN head; ALTER TABLE streams DROP COLUMN crc; "
        "ALTER TABLE origins DROP COLUMN crc; DELETE FROM meta WHERE key LIKE '%_sum'; "
        "PRAGMA user_version=1");
    execute("DELETE FROM log");  // Its checksums knew no chain: only new rows can be right here.
    execute("UPDATE streams SET floor_seq = seq, floor_pos = (SELECT max(pos) FROM state)");
    open();
    EXPECT_TRUE(truth_.batch(*store_));
    EXPECT_TRUE(store_->check_all().value());
    store_->mark_clean();
    open();
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(DamageTest, EveryFileIsItsOwnersAloneWhateverTheMask) {
    const mode_t mask = ::umask(0);
    const TempFolder folder;
    const std::string path = folder.file("s.db");
    const auto lock = FileLock::take(path + ".lock");
    Truth truth(3);
    {
        auto store = Store::open(path, truth.now(), kBoot).value();
        truth.opened(store->take_loaded());
        truth.batch(*store);
        truth.trim(*store, Seconds{1000});
        int files = 0;
        for (const auto& entry : fs::directory_iterator(folder.file(""))) {
            struct stat status{};
            ASSERT_EQ(0, ::stat(entry.path().c_str(), &status));
            EXPECT_EQ(0600, status.st_mode & 0777) << entry.path();
            ++files;
        }
        EXPECT_EQ(5, files) << "database, write-ahead log, its index, lock, reserve";
    }
    ::umask(mask);
}

/// A few rows whose place in the file is known, for damage that is aimed.
class AimedDamageTest : public testing::Test {
 protected:
    AimedDamageTest() { open(); }

    Message row(Kind kind, const std::string& topic, const std::string& key = "",
                std::string_view data = "\x81\xa1v\x01") {
        Message message;
        message.kind = kind;
        message.origin = "nas";
        message.topic = topic;
        message.key = key;
        message.seq = ++seq_[topic];
        message.pos = ++pos_;
        message.at = now_.wall;
        message.age.quality = Quality::kLive;
        message.age.as_of = AsOf{now_.wall, now_.mono};
        message.data = std::make_shared<const std::string>(data);
        return message;
    }
    void commit(std::vector<Message> rows) {
        Batch batch;
        batch.now = now_;
        batch.rows = std::move(rows);
        const auto committed = store_->commit(batch);
        ASSERT_TRUE(committed) << committed.error().message;
    }
    void commit_events(int count, const std::string& topic = "e") {
        for (int i = 0; i < count; ++i) {
            commit({row(Kind::kEvent, topic)});
        }
    }
    Result<> try_open() {
        store_.reset();
        auto opened = Store::open(path_, now_, kBoot);
        if (!opened) {
            return opened.error();
        }
        store_ = std::move(*opened);
        loaded_ = store_->take_loaded();
        return {};
    }
    void open() {
        const auto opened = try_open();
        ASSERT_TRUE(opened) << opened.error().message;
    }
    void close() {
        store_->mark_clean();
        store_->checkpoint().value();
        store_.reset();
    }
    void execute(const std::string& sql) {
        Database db = Database::open(path_, Database::Mode::kWrite).value();
        db.execute("PRAGMA foreign_keys=OFF").value();
        db.execute(sql).value();
        db.checkpoint().value();
    }
    std::int64_t number(const std::string& sql) {
        return Database::open(path_, Database::Mode::kWrite).value().number(sql).value();
    }
    /// The file is closed. Where the one place that holds `old` begins.
    std::size_t find(const std::string& file, const std::string& old) {
        const std::size_t at = file.find(old);
        EXPECT_NE(std::string::npos, at);
        EXPECT_EQ(std::string::npos, file.find(old, at + 1));
        return at;
    }
    void write_alone(const std::string& file) {
        fs::remove(path_ + "-wal");
        fs::remove(path_ + "-shm");
        write_file(path_, file);
    }
    void break_page(std::int64_t page, std::string file) {
        file.replace(static_cast<std::size_t>(page - 1) * kPageBytes, 8, std::string(8, '\xEE'));
        write_alone(file);
    }
    std::map<std::string, std::uint64_t> values() {
        std::map<std::string, std::uint64_t> found;
        for (const Message& value : loaded_.values) {
            found[value.key] = value.seq;
        }
        return found;
    }
    std::size_t put_aside() {
        std::size_t found = 0;
        for (const auto& entry : fs::directory_iterator(folder_.file(""))) {
            const std::string name = entry.path().filename();
            found += name.starts_with("s.db.damaged-") && !name.ends_with("-wal") ? 1U : 0U;
        }
        return found;
    }

    const bool quiet_ = quiet();
    TempFolder folder_;
    std::string path_ = folder_.file("s.db");
    Now now_{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    std::map<std::string, std::uint64_t> seq_;
    std::uint64_t pos_ = 0;
    std::unique_ptr<Store> store_;
    Loaded loaded_;
};

TEST_F(AimedDamageTest, ASchemaNumberThatNoFileHasIsDamageAndTheFileIsSalvaged) {
    commit({row(Kind::kValue, "t", "a"), row(Kind::kEvent, "e")});
    close();
    const std::string file = read_file(path_);
    for (const char* version : {"0", "-2147483646", "1073741826", "16777218", "-1"}) {
        write_alone(file);
        execute("PRAGMA user_version=" + std::string(version));
        open();
        EXPECT_THAT(values(), ElementsAre(testing::Pair("a", 1))) << version;
        EXPECT_THAT(store_->repairs(), Contains(HasSubstr("2 rows of the log"))) << version;
        store_.reset();
        for (const auto& entry : fs::directory_iterator(folder_.file(""))) {
            fs::remove_all(entry.path());
        }
    }
}

TEST_F(AimedDamageTest, AFileThatCannotBeLookedAtIsNotTakenForOneThatIsGone) {
    commit_events(3);
    store_.reset();
    fs::remove(path_);
    fs::create_symlink("s.db", path_);  // Any look at it is an error, and none of "not there".
    write_file(path_ + "-wal", std::string(9000, 'x'));
    const auto refused = try_open();
    ASSERT_FALSE(refused);
    EXPECT_EQ(Errc::kUnavailable, refused.error().code);
    EXPECT_EQ(0U, put_aside());
    EXPECT_EQ(9000U, fs::file_size(path_ + "-wal"));
}

TEST_F(AimedDamageTest, ADamagedFileOfTheFirstSchemaKeepsItsLog) {
    for (int i = 0; i < 20; ++i) {
        commit({row(Kind::kEvent, "e"), row(Kind::kValue, "t", "k" + std::to_string(i % 5))});
    }
    close();
    {
        Database db = Database::open(path_, Database::Mode::kWrite).value();
        Statement read = db.prepare("SELECT" + std::string(kLogColumns) + "FROM log l").value();
        Statement write = db.prepare("UPDATE log SET crc = ?, prev = NULL WHERE pos = ?").value();
        std::vector<std::pair<std::int64_t, std::int64_t>> sums;
        while (read.step().value()) {
            LogRow found = log_row(read);
            found.prev.reset();
            sums.emplace_back(found.checksum(), found.pos);
        }
        for (const auto& [crc, pos] : sums) {
            write.run(crc, pos).value();
        }
    }
    execute(
        "ALTER TABLE log DROP COLUMN prev; ALTER TABLE streams DROP COLUMN head; "
        "ALTER TABLE streams DROP COLUMN crc; ALTER TABLE origins DROP COLUMN crc; "
        "DELETE FROM meta WHERE key LIKE '%_sum'; PRAGMA user_version=1");
    break_page(number("SELECT rootpage FROM sqlite_schema WHERE name = 'log_by_stream'"),
               read_file(path_));
    open();
    EXPECT_EQ(1U, put_aside());
    EXPECT_EQ(5U, loaded_.values.size());
    EXPECT_EQ(40U, loaded_.pos);
    const auto range = LogReader::open(path_, kBoot).value().range("nas", "e", {1, 20}, now_);
    ASSERT_TRUE(range);
    ASSERT_EQ(20U, range->items.size());
    for (const Message& item : range->items) {
        EXPECT_EQ(Kind::kEvent, item.kind);
    }
    EXPECT_TRUE(store_->check_all().value());
    commit_events(1);
    EXPECT_TRUE(store_->check_all().value());
}

TEST_F(AimedDamageTest, ABrokenEntryOfTheIndexDisownsNoGoodRow) {
    for (int i = 0; i < 300; ++i) {
        commit({row(Kind::kEvent, "a"), row(Kind::kEvent, "e")});
    }
    store_->checkpoint().value();
    store_.reset();  // As a kill: the next start reads the rows.
    std::string file = read_file(path_);
    // The entry of stream 2, seq 290, pos 580; a bit of its seq flips.
    const std::size_t at = find(file, {4, 1, 2, 2, 2, 1, 0x22, 2, 0x44});
    file[at + 5] = 0x41;
    write_alone(file);
    // And a row of another stream is damaged, before it is its turn.
    {
        Database db = Database::open(path_, Database::Mode::kWrite).value();
        db.execute("UPDATE log SET body = x'80' WHERE pos = 501").value();
    }
    open();
    EXPECT_EQ(0, store_->database()
                     .number("SELECT count(*) FROM log WHERE stream = 2 AND crc = -1")
                     .value());
    EXPECT_EQ(1, store_->database().number("SELECT count(*) FROM log WHERE crc = -1").value());
    const auto range = LogReader::open(path_, kBoot).value().range("nas", "e", {285, 300}, now_);
    ASSERT_TRUE(range);
    EXPECT_EQ(16U, range->items.size());
    for (const Message& item : range->items) {
        EXPECT_EQ(Kind::kEvent, item.kind) << item.seq;
    }
}

TEST_F(AimedDamageTest, AValueWhoseKeyIsDamagedIsTakenFromTheLog) {
    commit({row(Kind::kValue, "t", "aaa"), row(Kind::kValue, "t", "bbb"),
            row(Kind::kValue, "t", "ccc")});
    close();
    execute("UPDATE state SET key = 'aaq' WHERE key = 'aaa'");
    open();
    EXPECT_THAT(values(), ElementsAre(testing::Pair("aaa", 1), testing::Pair("bbb", 2),
                                      testing::Pair("ccc", 3)));
    close();
    open();
    EXPECT_EQ(3U, values().size());
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(AimedDamageTest, ADamagedValueIsTakenFromTheLogHoweverOldItsRowThere) {
    commit({row(Kind::kValue, "t", "aaa")});
    std::vector<Message> newer;
    for (int i = 0; i < 10'001; ++i) {
        newer.push_back(row(Kind::kValue, "t", "bbb"));
    }
    commit(std::move(newer));
    close();
    execute("UPDATE state SET body = x'80' WHERE key = 'aaa'");
    open();
    EXPECT_THAT(values(), ElementsAre(testing::Pair("aaa", 1), testing::Pair("bbb", 10'002)));
}

TEST_F(AimedDamageTest, ABrokenEntryOfTheIndexDoesNotMoveItsStreamAhead) {
    commit_events(300);
    close();
    const std::string epoch = loaded_.epoch;
    std::string file = read_file(path_);
    // Of stream 1 the entry of seq 300, pos 300; a bit of its seq flips.
    const std::size_t at = find(file, {4, 9, 2, 2, 1, 0x2c, 1, 0x2c});
    file[at + 4] = 0x41;
    write_alone(file);
    open();
    EXPECT_EQ(300U, loaded_.streams.at(0).seq);
    EXPECT_EQ(epoch, loaded_.epoch);
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("the index of the log was made anew")));
    EXPECT_TRUE(store_->check_all().value());
}

TEST_F(AimedDamageTest, AKeyThatIsNoTextAnyMoreIsDamageAndTheNewestValueWins) {
    commit({row(Kind::kValue, "t", "aaa")});
    close();
    execute("UPDATE state SET key = CAST(key AS BLOB)");
    open();
    EXPECT_THAT(store_->repairs(), testing::Not(IsEmpty()));
    commit({row(Kind::kValue, "t", "aaa"), row(Kind::kValue, "t", "bbb")});
    EXPECT_EQ(2, store_->database().number("SELECT count(*) FROM state").value());
    close();
    execute(
        "CREATE TABLE newer AS SELECT * FROM state WHERE key = 'aaa'; "
        "UPDATE newer SET key = CAST(key AS BLOB), seq = 1; INSERT INTO state SELECT * FROM newer");
    open();
    EXPECT_THAT(values(), ElementsAre(testing::Pair("aaa", 2), testing::Pair("bbb", 3)));
}

TEST_F(AimedDamageTest, ANameThatIsNoTextAnyMoreIsDamageAndTheLogGoesOn) {
    commit({row(Kind::kValue, "t", "aaa"), row(Kind::kEvent, "e")});
    close();
    const std::string file = read_file(path_);
    for (const char* damage : {"UPDATE origins SET name = CAST(name AS BLOB)",
                               "UPDATE streams SET topic = CAST(topic AS BLOB)"}) {
        write_alone(file);
        execute(damage);
        open();
        EXPECT_THAT(values(), ElementsAre(testing::Pair("aaa", 1))) << damage;
        commit({row(Kind::kValue, "t", "aaa")});
        const auto range = LogReader::open(path_, kBoot).value().range("nas", "e", {1, 1}, now_);
        ASSERT_TRUE(range) << damage;
        EXPECT_EQ(1U, range->items.size()) << damage;
        store_.reset();
        seq_["t"] = 1;
        pos_ = 2;
    }
}

TEST_F(AimedDamageTest, BesideFiveDamagedCopiesNoneIsAddedAndTheErrorSaysSo) {
    commit_events(3);
    close();
    const std::string file = read_file(path_);
    for (int i = 0; i < 5; ++i) {
        write_alone(file.substr(0, 4096 + 100));
        open();
        store_.reset();
        now_.wall += Seconds{1};
    }
    ASSERT_EQ(5U, put_aside());
    EXPECT_TRUE(try_open()) << "what is sound starts";
    store_.reset();
    write_alone(file.substr(0, 4096 + 100));
    const auto refused = try_open();
    ASSERT_FALSE(refused);
    EXPECT_EQ(Errc::kUnavailable, refused.error().code);
    EXPECT_THAT(refused.error().message, HasSubstr("s.db.damaged-"));
    EXPECT_EQ(5U, put_aside());
    EXPECT_EQ(file.substr(0, 4096 + 100), read_file(path_));
}

TEST_F(AimedDamageTest, ASalvageThatFindsNoRoomLeavesNoHalfMadeFiles) {
    for (int i = 0; i < 300; ++i) {
        commit({row(Kind::kEvent, "e", "",
                    std::string("\x81\xa1v\xda\x0b\xb8") + std::string(3000, 'e'))});
    }
    close();
    std::string file = read_file(path_);
    file[0] = 'X';
    write_alone(file);
    const auto handler = ::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    ::getrlimit(RLIMIT_FSIZE, &before);
    for (const rlim_t room : {rlim_t{100'000}, static_cast<rlim_t>(file.size() - 50'000)}) {
        rlimit small = before;
        small.rlim_cur = room;
        ::setrlimit(RLIMIT_FSIZE, &small);
        const auto refused = try_open();
        ::setrlimit(RLIMIT_FSIZE, &before);
        EXPECT_FALSE(refused);
        EXPECT_FALSE(fs::exists(path_ + ".salvaged")) << room;
        EXPECT_FALSE(fs::exists(path_ + ".source")) << room;
        EXPECT_EQ(file, read_file(path_)) << room;
    }
    ::signal(SIGXFSZ, handler);
    open();
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("300 rows of the log")));
}

TEST_F(AimedDamageTest, DamageThatWasFoundWhileRunningIsLookedForWhateverTheMarkSays) {
    commit_events(50);
    store_->database().execute("UPDATE log SET body = x'80' WHERE pos = 20").value();
    close();
    suspect(path_);
    open();
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("1 are damaged")));
}

TEST_F(AimedDamageTest, WhateverIsDamagedInMetaIsSaidAndTheLogGetsANewEpoch) {
    commit_events(3);
    const std::string epoch = loaded_.epoch;
    close();
    const std::string file = read_file(path_);
    for (const char* edit :
         {"value = value + 1 WHERE key = 'pos'", "value = value - 1 WHERE key = 'pos'",
          "value = 1 WHERE key = 'lost_to'", "value = 0 WHERE key = 'clean'",
          "value = value + 4 WHERE key = 'streams_sum'",
          "value = value + 4 WHERE key = 'state_sum'", "value = value + 1 WHERE key = 'clock_boot'",
          "value = value + 65536 WHERE key = 'clock_offset_ms'",
          "value = value + 1 WHERE key = 'boots_sum'", "value = value + 1 WHERE key = 'meta_sum'",
          "value = 'x' || substr(value, 2) WHERE key = 'log_epoch'",
          "key = 'qos' WHERE key = 'pos'", "key = 'meta_sul' WHERE key = 'meta_sum'"}) {
        store_.reset();
        write_alone(file);
        execute(std::string("UPDATE meta SET ") + edit);
        open();
        EXPECT_THAT(store_->repairs(), Contains(HasSubstr("new epoch"))) << edit;
        EXPECT_NE(epoch, loaded_.epoch) << edit;
        EXPECT_EQ(3U, loaded_.pos) << edit;
        const std::string renewed = loaded_.epoch;
        close();
        open();
        EXPECT_THAT(store_->repairs(), IsEmpty()) << edit;
        EXPECT_EQ(renewed, loaded_.epoch) << edit;
    }
}

TEST_F(AimedDamageTest, ADatabaseWhoseMetaHasNoSumYetIsReadAsItIsAndGetsOne) {
    commit_events(3);
    const std::string epoch = loaded_.epoch;
    close();
    execute("DELETE FROM meta WHERE key IN ('meta_sum', 'boots_sum')");
    open();
    EXPECT_THAT(store_->repairs(), IsEmpty());
    EXPECT_EQ(epoch, loaded_.epoch);
    close();
    execute("UPDATE meta SET value = 'another' WHERE key = 'log_epoch'");
    open();
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("a row of meta is damaged")));
}

TEST_F(AimedDamageTest, ARowOfAnotherBootNeverPassesForOneOfThisBoot) {
    commit({row(Kind::kValue, "t", "k")});
    close();
    const std::string file = read_file(path_);
    for (const char* damage :
         {"UPDATE boots SET boot = 'boot-b'", "DELETE FROM boots",
          "UPDATE meta SET key = 'qos' WHERE key = 'pos'; UPDATE boots SET boot = 'boot-b'"}) {
        for (const bool salvaged : {false, true}) {
            store_.reset();
            write_alone(file);
            execute(damage);
            if (salvaged) {
                execute("UPDATE streams SET seq = seq + 1");
            }
            const Now later{Mono{Seconds{7}}, now_.wall + Seconds{60}};
            auto opened = Store::open(path_, later, "boot-b");
            ASSERT_TRUE(opened) << opened.error().message;
            const Loaded loaded = (*opened)->take_loaded();
            ASSERT_EQ(1U, loaded.values.size()) << damage;
            EXPECT_TRUE(loaded.values[0].age.uncertain) << damage;
            EXPECT_EQ(Millis{60'000}, elapsed(loaded.values[0].age.as_of->mono, later.mono))
                << damage;
            EXPECT_THAT((*opened)->repairs(), testing::Not(IsEmpty())) << damage;
        }
    }
}

TEST_F(AimedDamageTest, ADamagedReportIsRemovedAndNotFoundAgain) {
    Batch batch;
    batch.now = now_;
    for (const char* name : {"poll-p", "poll-q", "poll-r"}) {
        PollState& poll = batch.polls.emplace_back();
        poll.origin = "nas";
        poll.report.poll = name;
        poll.report.topic = "t";
    }
    ASSERT_TRUE(store_->commit(batch));
    close();
    std::string file = read_file(path_);
    // The key comes before all else of its row; now it is out of its order, where no search finds
    // it.
    file[file.find("poll-p") + 5] = 'z';
    write_alone(file);
    open();
    EXPECT_THAT(store_->repairs(), Contains(HasSubstr("damaged report of poll 'poll-z'")));
    EXPECT_EQ(2U, loaded_.polls.size());
    close();
    open();
    EXPECT_THAT(store_->repairs(), IsEmpty());
    EXPECT_EQ(2U, loaded_.polls.size());
}

TEST_F(AimedDamageTest, AReaderTellsOfADamagedRowUntilAStartHasFoundItToo) {
    commit_events(50);
    const char* const harm[] = {"UPDATE log SET body = x'80' WHERE pos = 20",
                                "DELETE FROM log WHERE pos = 30"};
    const char* const said[] = {"position 20 is damaged", "position 31 comes after rows that are"};
    for (int i = 0; i < 2; ++i) {
        store_->database().execute(harm[i]).value();
        LogReader reader = LogReader::open(path_, kBoot).value();
        ASSERT_TRUE(reader.range("nas", "e", {i == 0 ? 1U : 22U, 50}, now_));
        EXPECT_THAT(reader.damage(), HasSubstr(said[i]));
        suspect(path_);
        close();
        open();
        EXPECT_THAT(store_->repairs(),
                    Contains(HasSubstr(i == 0 ? "1 are damaged" : "1 are missing")));
        LogReader again = LogReader::open(path_, kBoot).value();
        const auto range = again.range("nas", "e", {1, 50}, now_);
        ASSERT_TRUE(range);
        EXPECT_EQ(Kind::kGap, range->items[19].kind);
        ASSERT_TRUE(again.history(0, 50, now_));
        EXPECT_EQ("", again.damage());
    }
}

TEST_F(AimedDamageTest, APageOfTheLogTellsOfADamagedRow) {
    commit_events(50);
    store_->database().execute("UPDATE log SET body = x'80' WHERE pos = 20").value();
    LogReader reader = LogReader::open(path_, kBoot).value();
    const auto page = reader.history(0, 50, now_);
    ASSERT_TRUE(page);
    EXPECT_EQ(Kind::kGap, page->items[19].kind);
    EXPECT_THAT(reader.damage(), HasSubstr("position 20 is damaged"));
}

TEST_F(AimedDamageTest, APageOfTheLogLeavesNoStreamOutUnsaidWhoseRowIsDamaged) {
    commit_events(5);
    store_->database().execute("UPDATE streams SET kind = 1").value();
    const auto page = LogReader::open(path_, kBoot).value().history(0, 5, now_);
    ASSERT_FALSE(page) << page->items.size();
    EXPECT_EQ(Errc::kCorrupt, page.error().code);
}

TEST_F(AimedDamageTest, RetentionBelievesNoDamagedRowAndTakesItAlongInItsTime) {
    // Of the year 2140.
    commit_events(4);
    store_->database()
        .execute("UPDATE log SET at_ms = at_ms * 3, mono_us = mono_us * 3000 WHERE pos = 2")
        .value();
    now_.mono += Seconds{100};
    now_.wall += Seconds{100};
    commit_events(1);
    EXPECT_EQ("", store_->damage());
    EXPECT_EQ(3U, store_->trim(now_, {Seconds{50}, Seconds{50}, 0}).value());
    EXPECT_THAT(store_->damage(), HasSubstr("position 2 is damaged"));
    EXPECT_TRUE(is_suspect(path_));
    EXPECT_EQ(1, store_->database().number("SELECT count(*) FROM log").value());
}

TEST_F(AimedDamageTest, RetentionBySizeRemovesNotWhatADamagedRowSays) {
    commit_events(2 * kTrimRowsMax);
    store_->database().execute("UPDATE log SET seq = seq + 1000000 WHERE pos = 2").value();
    EXPECT_EQ(std::size_t{kTrimRowsMax},
              store_->trim(now_, {Seconds{1'000'000}, Seconds{1'000'000}, 1}).value());
    EXPECT_THAT(store_->damage(), HasSubstr("position 2 is damaged"));
    EXPECT_EQ(kTrimRowsMax + 1U,
              LogReader::open(path_, kBoot).value().streams().value()[0].floor_seq);
    EXPECT_EQ(kTrimRowsMax - 1,
              store_->database().number("SELECT count(*) FROM log WHERE pos > 2").value());
}

TEST_F(AimedDamageTest, ALinkToTheDatabaseIsFollowedAndWhatStandsBesideItStandsBesideTheFile) {
    commit_events(300);
    close();
    fs::create_directory(folder_.file("links"));
    const std::string link = folder_.file("links/x.db");
    fs::create_symlink("../s.db", link);
    ASSERT_EQ(path_, fs::weakly_canonical(follow_links(link).value()));
    std::string file = read_file(path_);
    file.replace(0, 8, "rotten!!");
    write_alone(file);
    auto opened = Store::open(link, now_, kBoot);
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_TRUE(fs::is_symlink(link));
    EXPECT_EQ(1U, put_aside());
    opened->reset();
    EXPECT_EQ(1, std::distance(fs::directory_iterator(folder_.file("links")), {}));
    fs::remove(link);
    fs::create_symlink("x.db", link);
    EXPECT_EQ(Errc::kUnavailable, follow_links(link).error().code);
}

TEST_F(AimedDamageTest, AStoreThatFoundDamageLeavesNoMarkOfACleanStop) {
    commit_events(5);
    Batch batch;
    batch.now = now_;
    batch.rows.push_back(row(Kind::kEvent, "e"));
    batch.rows.back().pos = 3;  // The log has it, though nobody knows of it.
    EXPECT_FALSE(store_->commit(batch));
    EXPECT_TRUE(is_suspect(path_));
    fs::remove(path_ + ".suspect");  // Were it lost, too.
    close();
    EXPECT_EQ(0, number("SELECT value FROM meta WHERE key = 'clean'"));
}

}  // namespace
}  // namespace sigmacast::storage
