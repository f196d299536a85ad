#include "storage/database.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "storage/schema.h"
#include "temp_folder.h"

namespace sigmacast::storage {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

class DatabaseTest : public testing::Test {
 protected:
    Database open(Database::Mode mode = Database::Mode::kWrite) {
        return Database::open(path_, mode).value();
    }

    TempFolder folder_;
    std::string path_ = folder_.file("x.db");
};

TEST_F(DatabaseTest, TheFileIsReadableByItsOwnerOnly) {
    const Database db = open();
    struct stat status{};
    ASSERT_EQ(0, stat(path_.c_str(), &status));
    EXPECT_EQ(0600, status.st_mode & 0777);
}

TEST_F(DatabaseTest, CommitsAreSyncedAndUseTheWriteAheadLog) {
    Database db = open();
    EXPECT_EQ(2, db.number("PRAGMA synchronous").value());  // FULL
    auto mode = db.prepare("PRAGMA journal_mode").value();
    ASSERT_TRUE(mode.step().value());
    EXPECT_EQ("wal", mode.text(0));
}

TEST_F(DatabaseTest, BytesComeBackAsTheyWere) {
    Database db = open();
    db.execute("CREATE TABLE t (a, b, c)").value();
    const std::string blob("\0x\xff", 3);
    db.prepare("INSERT INTO t VALUES (?, ?, ?)")
        .value()
        .run(std::uint64_t{7}, "text", Blob{blob})
        .value();
    auto read = db.prepare("SELECT a, b, c FROM t").value();
    ASSERT_TRUE(read.step().value());
    EXPECT_EQ(7U, read.natural(0));
    EXPECT_EQ("text", read.text(1));
    EXPECT_EQ(blob, read.text(2));
    EXPECT_FALSE(read.step().value());
}

TEST_F(DatabaseTest, ATransactionThatIsNotCommittedLeavesNothing) {
    Database db = open();
    db.execute("CREATE TABLE t (a)").value();
    {
        const Transaction transaction = Transaction::begin(db).value();
        db.execute("INSERT INTO t VALUES (1)").value();
    }
    EXPECT_EQ(0, db.number("SELECT count(*) FROM t").value());
}

TEST_F(DatabaseTest, AnErrorNamesTheFile) {
    Database db = open();
    EXPECT_THAT(db.execute("SELECT * FROM nowhere").error().message, HasSubstr(path_));
}

TEST_F(DatabaseTest, AReaderCannotWrite) {
    open().execute("CREATE TABLE t (a)").value();
    Database reader = open(Database::Mode::kRead);
    EXPECT_FALSE(reader.execute("INSERT INTO t VALUES (1)"));
}

TEST_F(DatabaseTest, AReaderOfAMissingFileIsToldSo) {
    EXPECT_EQ(Errc::kNotFound, Database::open(path_, Database::Mode::kRead).error().code);
}

TEST_F(DatabaseTest, AnEmptyFileIsMigratedToTheNewestSchema) {
    Database db = open();
    migrate(db).value();
    EXPECT_EQ(schema_version(), db.number("PRAGMA user_version").value());
    EXPECT_TRUE(check(db));
    EXPECT_TRUE(migrate(db)) << "a second start finds nothing to do";
}

TEST_F(DatabaseTest, ANewerDatabaseIsRefusedByNameAndLeftAsItWas) {
    Database db = open();
    migrate(db).value();
    db.execute("PRAGMA user_version=9").value();
    const auto refused = migrate(db);
    ASSERT_FALSE(refused);
    EXPECT_EQ(Errc::kUnsupported, refused.error().code);
    EXPECT_THAT(
        refused.error().message,
        EndsWith("x.db has schema 9; this program knows up to 2: start the newer Sigmacast"));
    EXPECT_EQ(9, db.number("PRAGMA user_version").value());
}

TEST_F(DatabaseTest, AReaderRefusesANewerAndAnOlderDatabaseAndSaysWhoToStart) {
    Database db = open();
    migrate(db).value();
    db.execute("PRAGMA user_version=9").value();
    EXPECT_THAT(check(db).error().message, EndsWith("start the newer Sigmacast"));
    db.execute("PRAGMA user_version=1").value();
    EXPECT_THAT(check(db).error().message, HasSubstr("start the broker once"));
    db.execute("PRAGMA user_version=0").value();
    EXPECT_EQ(Errc::kCorrupt, check(db).error().code) << "no file of ours has it";
}

TEST_F(DatabaseTest, ADatabaseOfAnotherProgramIsRefused) {
    Database db = open();
    db.execute("CREATE TABLE theirs (a)").value();
    const auto refused = migrate(db);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, HasSubstr("belongs to another program"));
    EXPECT_EQ(1, db.number("SELECT count(*) FROM sqlite_master").value());
}

TEST_F(DatabaseTest, AFileThatIsNoDatabaseIsRefused) {
    std::ofstream(path_) << std::string(5000, 'x');
    const auto refused = Database::open(path_, Database::Mode::kWrite);
    ASSERT_FALSE(refused);
    EXPECT_EQ(Errc::kCorrupt, refused.error().code);
}

}  // namespace
}  // namespace sigmacast::storage
