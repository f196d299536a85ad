// The committing thread over a real file.
#include "storage/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include "storage/reader.h"
#include "temp_folder.h"
#include "writer_fixture.h"

namespace sigmacast::storage {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr TrimLimits kKeepAll{Seconds{1'000'000}, Seconds{1'000'000}, 0};

class WriterTest : public testing::Test {
 protected:
    WriterTest() {
        store_ = Store::open(path_, rows_.now).value();
        raw_ = store_.get();
    }
    void start(TrimLimits limits = kKeepAll) {
        writer_.emplace(
            std::move(store_), limits,
            [this](CommitOutcome outcome) {
                if (on_writers_thread_) {
                    on_writers_thread_();
                }
                outcomes_.add(std::move(outcome));
            },
            [this](Damage damage) {
                const std::lock_guard lock(damage_mutex_);
                damage_.push_back(std::move(damage));
            });
    }
    /// What was told until the writer has ended.
    std::vector<Damage> damage() {
        writer_->stop();
        const std::lock_guard lock(damage_mutex_);
        return damage_;
    }
    /// Positions of the log as another process sees them.
    std::vector<std::uint64_t> log() {
        std::vector<std::uint64_t> found;
        LogReader reader = LogReader::open(path_).value();
        for (const LogEntry& entry : reader.read({.max = 100'000}, rows_.now).value()) {
            found.push_back(entry.message.pos);
        }
        return found;
    }

    TempFolder folder_;
    std::string path_ = folder_.file("s.db");
    Rows rows_;
    std::unique_ptr<Store> store_;
    Store* raw_ = nullptr;  // To be touched on the writer's thread only, once that runs.
    std::function<void()> on_writers_thread_;
    Outcomes outcomes_;
    std::mutex damage_mutex_;
    std::vector<Damage> damage_;
    std::optional<Writer> writer_;
};

TEST_F(WriterTest, ABatchIsInTheLogBeforeItIsAnswered) {
    std::vector<std::uint64_t> seen;
    on_writers_thread_ = [&] { seen = log(); };
    start();
    writer_->submit(rows_.batch(2));
    const auto outcome = outcomes_.next();
    ASSERT_TRUE(outcome.result) << outcome.result.error().message;
    EXPECT_EQ(2U, outcome.result->pos);
    EXPECT_THAT(seen, ElementsAre(1, 2));
}

TEST_F(WriterTest, EachBatchIsAnsweredOnceInTheOrderOfSubmission) {
    start();
    for (std::uint64_t pos = 1; pos <= 20; ++pos) {
        writer_->submit(rows_.batch(1));
        EXPECT_EQ(pos, outcomes_.next().result->pos);
    }
    writer_->stop();
    EXPECT_EQ(20U, outcomes_.count());
    EXPECT_EQ(20U, log().size());
}

TEST_F(WriterTest, AnAnswerComesOnTheWritersThread) {
    std::thread::id answered_on;
    on_writers_thread_ = [&] { answered_on = std::this_thread::get_id(); };
    start();
    writer_->submit(rows_.batch(1));
    outcomes_.next();
    EXPECT_NE(std::this_thread::get_id(), answered_on);
}

TEST_F(WriterTest, ARefusedBatchIsAnsweredWithTheErrorAndIsTakenOnceTheDiskRecovers) {
    raw_->database().execute("PRAGMA max_page_count=1").value();
    start();
    const auto batch = rows_.batch(500, 100);
    for (int i = 0; i < 3; ++i) {
        writer_->submit(batch);
        EXPECT_EQ(Errc::kFull, outcomes_.next().result.error().code);
        EXPECT_THAT(log(), IsEmpty());
    }
    on_writers_thread_ = [&] { raw_->database().execute("PRAGMA max_page_count=1000000").value(); };
    writer_->submit(batch);
    EXPECT_FALSE(outcomes_.next().result) << "this try was still refused";
    writer_->submit(batch);
    EXPECT_EQ(500U, outcomes_.next().result.value().pos);
    EXPECT_EQ(500U, log().size());
}

TEST_F(WriterTest, StopFinishesWhatWasSubmittedAndEmptiesTheWriteAheadLog) {
    start();
    writer_->submit(rows_.batch(100));
    writer_->stop();
    EXPECT_EQ(1U, outcomes_.count());
    const std::string wal = path_ + "-wal";
    EXPECT_TRUE(!std::filesystem::exists(wal) || std::filesystem::file_size(wal) == 0);
    EXPECT_EQ(100U, log().size());
    writer_->stop();  // Once more changes nothing.
    EXPECT_EQ(1U, outcomes_.count());
}

TEST_F(WriterTest, AWriterThatNeverHadWorkEnds) {
    start();
    writer_.reset();
    EXPECT_EQ(0U, outcomes_.count());
}

TEST_F(WriterTest, RetentionWorksInSlicesAndLetsCommitsInBetween) {
    // Within a boot, rows age by its clock: on a machine that was just started it must be above 0.
    const Seconds age{
        std::min<std::int64_t>(1'000, rows_.now.mono.time_since_epoch().count() / 2'000'000)};
    rows_.now.wall -= age;
    rows_.now.mono -= age;
    raw_->commit(*rows_.batch(3500)).value();
    rows_.now.wall += age;
    rows_.now.mono += age;
    start({age / 2, age / 2, 0});
    // Before the answer to a commit, no more than one slice for it and each commit before it.
    std::uint64_t trimmed = 0;
    for (std::uint64_t slices = 1; trimmed < 3500; ++slices) {
        ASSERT_LT(slices, 100U) << "retention does not get on";
        writer_->submit(rows_.batch(1));
        ASSERT_TRUE(outcomes_.next().result);
        // Further slices may have followed while this thread was not looking, but never a part.
        trimmed = writer_->rows_trimmed();
        EXPECT_TRUE(trimmed % kTrimRowsMax == 0 || trimmed == 3500) << trimmed;
    }
    writer_->stop();
    EXPECT_EQ(3501U, log().front());
    EXPECT_GT(writer_->database_bytes(), 0U);
}

TEST_F(WriterTest, ADamagedRowThatRetentionMeetsIsToldOnceAndCommitsGoOn) {
    raw_->commit(*rows_.batch(20)).value();
    raw_->database().execute("UPDATE log SET body = x'80' WHERE pos = 3").value();
    start({Seconds{1'000'000}, Seconds{1'000'000}, 1});
    for (int i = 0; i < 5; ++i) {
        writer_->submit(rows_.batch(1));
        EXPECT_TRUE(outcomes_.next().result);
    }
    const std::vector<Damage> told = damage();
    ASSERT_EQ(1U, told.size());
    EXPECT_TRUE(told[0].rows_only);
    EXPECT_THAT(told[0].what, testing::HasSubstr("position 3 is damaged"));
}

TEST_F(WriterTest, APageThatRetentionCannotReadIsToldAsDamageOfTheFile) {
    raw_->commit(*rows_.batch(2000, 1000)).value();
    raw_->mark_clean();
    const auto page = raw_->database().number(
        "SELECT pageno FROM dbstat WHERE name = 'log' AND pagetype = 'leaf' ORDER BY path LIMIT 1 "
        "OFFSET 5");
    ASSERT_TRUE(page) << page.error().message;
    raw_->checkpoint().value();
    store_.reset();
    {
        std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
        file.seekp((*page - 1) * static_cast<std::streamoff>(kPageBytes));
        file << std::string(8, '\xEE');
    }
    store_ = Store::open(path_, rows_.now).value();
    start({Seconds{1'000'000}, Seconds{1'000'000}, 1});
    writer_->submit(rows_.batch(1));
    outcomes_.next();
    const std::vector<Damage> told = damage();
    ASSERT_EQ(1U, told.size());
    EXPECT_FALSE(told[0].rows_only) << told[0].what;
}

TEST_F(WriterTest, ALargeWriteAheadLogIsCopiedIntoTheDatabase) {
    start();
    writer_->submit(rows_.batch(100, 60'000));  // Over kCheckpointPages.
    outcomes_.next();
    writer_->submit(rows_.batch(1));
    outcomes_.next();
    EXPECT_LT(std::filesystem::file_size(path_ + "-wal"), 100'000U);
}

}  // namespace
}  // namespace sigmacast::storage
