// What a start makes of a damaged database: flipped bits on every page, files that were cut off or
// emptied, rows that were lost, swapped or replaced, and the numbers that no row can have. It never
// crashes, never gives a wrong value, and says what it did.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/log.h"
#include "common/state_file.h"
#include "storage/reader.h"
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
        store_->checkpoint();
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

}  // namespace
}  // namespace sigmacast::storage
