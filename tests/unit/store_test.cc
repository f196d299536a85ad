#include "storage/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/reader.h"
#include "temp_folder.h"

namespace sigmacast::storage {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::string_view kEmptyMap("\x80", 1);

std::string map_of(std::string_view value) {
    return std::string("\x81\xa1v", 3) + static_cast<char>(0xa0 + value.size()) +
           std::string(value);
}

/// One store over a file in a folder of its own, in virtual time.
class StoreTest : public testing::Test {
 protected:
    StoreTest() { open(); }

    void open(const std::string& boot = "boot-a") {
        store_.reset();
        auto opened = Store::open(path_, now_, boot);
        ASSERT_TRUE(opened) << opened.error().message;
        store_ = std::move(*opened);
        loaded_ = store_->take_loaded();
    }
    void advance(Millis by) {
        now_.mono += by;
        now_.wall += by;
    }
    Message row(Kind kind, const std::string& topic, const std::string& key = "",
                std::string_view value = "x") {
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
        message.data = std::make_shared<const std::string>(map_of(value));
        return message;
    }
    Result<Committed> commit(std::vector<Message> rows) {
        Batch batch;
        batch.now = now_;
        batch.rows = std::move(rows);
        return store_->commit(batch);
    }
    void commit_ok(std::vector<Message> rows) {
        const auto done = commit(std::move(rows));
        ASSERT_TRUE(done) << done.error().message;
    }
    LogRange range(const std::string& topic, std::uint64_t from, std::uint64_t to) {
        return LogReader::open(path_, "boot-a")
            .value()
            .range("nas", topic, {from, to}, now_)
            .value();
    }
    LogPage history(std::uint64_t from, std::uint64_t to) {
        return LogReader::open(path_, "boot-a").value().history(from, to, now_).value();
    }
    static std::vector<std::uint64_t> positions(const LogPage& page) {
        std::vector<std::uint64_t> all;
        for (const Message& item : page.items) {
            all.push_back(item.pos);
        }
        return all;
    }
    std::vector<std::uint64_t> seqs(const LogRange& found) {
        std::vector<std::uint64_t> all;
        for (const Message& item : found.items) {
            all.push_back(item.seq);
        }
        return all;
    }
    StreamRecord stream(const std::string& topic) {
        for (const StreamRecord& record : LogReader::open(path_).value().streams().value()) {
            if (record.topic == topic) {
                return record;
            }
        }
        return {};
    }
    void execute(const std::string& sql) { store_->database().execute(sql).value(); }

    TempFolder folder_;
    std::string path_ = folder_.file("s.db");
    Now now_{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    std::map<std::string, std::uint64_t> seq_;
    std::uint64_t pos_ = 0;
    std::unique_ptr<Store> store_;
    Loaded loaded_;
};

TEST_F(StoreTest, ARestartFindsTheNewestValueOfEachKeyByPosition) {
    commit_ok({row(Kind::kValue, "jobs", "a", "1"), row(Kind::kValue, "jobs", "b", "2"),
               row(Kind::kValue, "jobs", "a", "3")});
    const std::string epoch = loaded_.epoch;
    open();
    EXPECT_EQ(epoch, loaded_.epoch);
    EXPECT_EQ(3U, loaded_.pos);
    ASSERT_EQ(2U, loaded_.values.size());
    EXPECT_EQ("b", loaded_.values[0].key);
    EXPECT_EQ("a", loaded_.values[1].key);
    EXPECT_EQ(map_of("3"), *loaded_.values[1].data);
    EXPECT_EQ(3U, loaded_.values[1].seq);
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(StoreTest, AFinalValueEndsItsKeyAndStaysInTheLog) {
    commit_ok({row(Kind::kValue, "jobs", "a")});
    Message last = row(Kind::kValue, "jobs", "a");
    last.final = true;
    commit_ok({last});
    open();
    EXPECT_THAT(loaded_.values, IsEmpty());
    EXPECT_THAT(seqs(range("jobs", 1, 9)), ElementsAre(1, 2));
}

TEST_F(StoreTest, ARangeHoldsWhatWasCommittedAndNothingElse) {
    commit_ok({row(Kind::kEvent, "e"), row(Kind::kEvent, "other"), row(Kind::kEvent, "e"),
               row(Kind::kEvent, "e")});
    EXPECT_THAT(seqs(range("e", 2, 3)), ElementsAre(2, 3));
    EXPECT_THAT(seqs(range("unknown", 1, 3)), IsEmpty());
}

TEST_F(StoreTest, ALongRangeIsCutAndSaysWhere) {
    std::vector<Message> rows;
    for (std::size_t i = 0; i < kRangeRowsMax + 5; ++i) {
        rows.push_back(row(Kind::kEvent, "e"));
    }
    commit_ok(rows);
    const LogRange found = range("e", 1, kRangeRowsMax + 5);
    EXPECT_EQ(kRangeRowsMax, found.items.size());
    EXPECT_EQ(kRangeRowsMax, found.range.to);
}

TEST_F(StoreTest, HistoryHoldsTheEventsAndGapsOfEventStreamsInOrderAndNoState) {
    commit_ok({row(Kind::kEvent, "e"), row(Kind::kValue, "t"), row(Kind::kEvent, "f"),
               storage::gap_in_place_of(row(Kind::kEvent, "e"), "lost"),
               storage::gap_in_place_of(row(Kind::kValue, "t"), "lost"), row(Kind::kEvent, "e")});
    const LogPage page = history(1, 6);
    EXPECT_EQ(6U, page.to);
    EXPECT_THAT(positions(page), ElementsAre(3, 4, 6));
    EXPECT_EQ(Kind::kGap, page.items[1].kind);
    EXPECT_THAT(positions(history(1, 5)), ElementsAre(3, 4)) << "nothing beyond what is visible";
    EXPECT_THAT(positions(history(6, 6)), IsEmpty());
}

TEST_F(StoreTest, APageOfHistoryIsBoundedByRowsBytesAndRowsVisited) {
    std::vector<Message> rows;
    for (std::size_t i = 0; i < kHistoryRowsMax + 5; ++i) {
        rows.push_back(row(Kind::kEvent, "e"));
    }
    commit_ok(rows);
    const LogPage many = history(0, kHistoryRowsMax + 5);
    EXPECT_EQ(kHistoryRowsMax, many.items.size());
    EXPECT_EQ(kHistoryRowsMax, many.to);
    EXPECT_THAT(positions(history(many.to, kHistoryRowsMax + 5)).size(), 5U);

    const std::uint64_t before = pos_;
    const std::string large(kHistoryBytesMax / 2, 'x');
    commit_ok({row(Kind::kEvent, "e", "", large), row(Kind::kEvent, "e", "", large),
               row(Kind::kEvent, "e", "", large)});
    EXPECT_EQ(before + 1, history(before, pos_).to) << "one at least";

    const std::uint64_t values = pos_;
    rows.clear();
    for (std::size_t i = 0; i < kHistoryVisitedMax + 7; ++i) {
        rows.push_back(row(Kind::kValue, "t"));
    }
    rows.push_back(row(Kind::kEvent, "e"));
    commit_ok(rows);
    EXPECT_EQ(values + kHistoryVisitedMax, history(values, pos_).to);
    EXPECT_THAT(positions(history(values, pos_)), IsEmpty());
    EXPECT_THAT(positions(history(values + kHistoryVisitedMax, pos_)), ElementsAre(pos_));
}

TEST_F(StoreTest, HistoryNamesTheEventStreamsThatWereTrimmedBeyondIt) {
    commit_ok({row(Kind::kEvent, "e"), row(Kind::kEvent, "quiet"), row(Kind::kValue, "t"),
               row(Kind::kEvent, "e")});
    advance(Seconds{100});
    commit_ok({row(Kind::kEvent, "e")});
    EXPECT_EQ(4U, store_->trim(now_, {Seconds{50}, Seconds{50}, 0}).value());
    const auto floors = [&](std::uint64_t from) {
        std::vector<std::string> lines;
        for (const StreamFloor& floor : history(from, pos_).floors) {
            lines.push_back(floor.topic + " " + std::to_string(floor.pos));
        }
        return lines;
    };
    EXPECT_THAT(floors(1), ElementsAre("e 4", "quiet 2"));
    EXPECT_THAT(floors(2), ElementsAre("e 4"));
    EXPECT_THAT(floors(4), IsEmpty());
    EXPECT_THAT(positions(history(1, pos_)), ElementsAre(5));
}

TEST_F(StoreTest, TheAgeOfAValueGoesOnWithinABootAndIsAGuessAcrossBoots) {
    commit_ok({row(Kind::kValue, "t")});
    const Mono as_of = now_.mono;
    advance(Seconds{60});
    now_.wall += Seconds{3600};  // The wall clock was set; the boot clock was not.
    open();
    ASSERT_EQ(1U, loaded_.values.size());
    EXPECT_EQ(as_of, loaded_.values[0].age.as_of->mono);
    EXPECT_FALSE(loaded_.values[0].age.uncertain);

    now_.mono = Mono{Seconds{5}};
    open("boot-b");
    EXPECT_EQ(Seconds{3660}, now_.mono - loaded_.values[0].age.as_of->mono);
    EXPECT_TRUE(loaded_.values[0].age.uncertain);
}

TEST_F(StoreTest, PollsAndPositionsAreKeptWithTheBatch) {
    Batch batch;
    batch.now = now_;
    batch.origins = {{"nas", 4, "instance"}};
    batch.positions = {{"nas", "poll.p", StreamKind::kReport, 4, 17}};
    PollState poll;
    poll.origin = "nas";
    poll.report.poll = "p";
    poll.report.topic = "t";
    poll.report.interval = Seconds{5};
    poll.report_seq = 17;
    poll.age.quality = Quality::kStale;
    poll.age.reason = "RPC_DISCONNECT";
    poll.age.as_of = AsOf{now_.wall, now_.mono};
    batch.polls = {poll};
    ASSERT_TRUE(store_->commit(batch));
    open();
    ASSERT_EQ(1U, loaded_.origins.size());
    EXPECT_EQ(4U, loaded_.origins[0].epoch);
    EXPECT_EQ("instance", loaded_.origins[0].instance);
    ASSERT_EQ(1U, loaded_.streams.size());
    EXPECT_EQ(17U, loaded_.streams[0].pseq);
    ASSERT_EQ(1U, loaded_.polls.size());
    EXPECT_EQ("RPC_DISCONNECT", loaded_.polls[0].age.reason);
    EXPECT_EQ(now_.mono, loaded_.polls[0].age.as_of->mono);
    EXPECT_EQ(Seconds{5}, loaded_.polls[0].report.interval);
    EXPECT_EQ(17U, loaded_.polls[0].report_seq);
}

TEST_F(StoreTest, RetentionRemovesOldValuesBeforeOldEventsAndMovesTheFloors) {
    commit_ok({row(Kind::kValue, "v"), row(Kind::kEvent, "e")});
    advance(Seconds{100});
    commit_ok({row(Kind::kValue, "v"), row(Kind::kEvent, "e")});
    advance(Seconds{10});
    EXPECT_EQ(1U, store_->trim(now_, {Seconds{50}, Seconds{200}, 0}).value());
    EXPECT_EQ(1U, stream("v").floor_seq);
    EXPECT_EQ(1U, stream("v").floor_pos);
    EXPECT_EQ(0U, stream("e").floor_pos);
    EXPECT_THAT(seqs(range("v", 1, 2)), ElementsAre(2));
    EXPECT_EQ(1U, store_->trim(now_, {Seconds{50}, Seconds{50}, 0}).value());
    EXPECT_EQ(2U, stream("e").floor_pos);
    EXPECT_EQ(0U, store_->trim(now_, {Seconds{50}, Seconds{50}, 0}).value());
}

/// The wall clock is set wrongly while the broker runs, or between two of its starts.
class StoreClockTest : public StoreTest, public testing::WithParamInterface<std::chrono::hours> {
 protected:
    static constexpr TrimLimits kLimits{Seconds{50}, Seconds{100}, 0};
};

TEST_P(StoreClockTest, AJumpOfTheWallClockNeitherEmptiesTheLogNorKeepsItForEver) {
    for (const bool restart : {false, true}) {
        commit_ok({row(Kind::kValue, "v"), row(Kind::kEvent, "e")});
        now_.wall += GetParam();
        if (restart) {
            open();
        }
        EXPECT_EQ(0U, store_->trim(now_, kLimits).value());
        advance(Seconds{10});
        commit_ok({row(Kind::kValue, "v"), row(Kind::kEvent, "e")});
        EXPECT_EQ(0U, store_->trim(now_, kLimits).value());
        now_.wall -= GetParam();
        advance(Seconds{45});
        EXPECT_EQ(1U, store_->trim(now_, kLimits).value()) << "the first value";
        advance(Seconds{50});
        EXPECT_EQ(2U, store_->trim(now_, kLimits).value()) << "the second one, the first event";
        advance(Seconds{10});
        EXPECT_EQ(1U, store_->trim(now_, kLimits).value());
    }
}

TEST_P(StoreClockTest, WhatAnEarlierBootLeftGoesInItsTimeThoughTheWallClockJumpsInThisOne) {
    commit_ok({row(Kind::kValue, "v"), row(Kind::kEvent, "e")});
    advance(Seconds{30});
    now_.mono = Mono{} + Seconds{5};  // A new boot.
    open("boot-b");
    now_.wall += GetParam();
    open("boot-b");
    EXPECT_EQ(0U, store_->trim(now_, kLimits).value());
    advance(Seconds{25});
    EXPECT_EQ(1U, store_->trim(now_, kLimits).value());
    advance(Seconds{50});
    EXPECT_EQ(1U, store_->trim(now_, kLimits).value());
}

TEST_F(StoreTest, RowsThatAWrongClockStampedInTheFutureGoOnceTheMachineHasBeenUpForSoLong) {
    now_.wall += std::chrono::duration_cast<Millis>(std::chrono::years{10});
    commit_ok({row(Kind::kEvent, "e")});
    now_.wall -= std::chrono::duration_cast<Millis>(std::chrono::years{10});
    now_.mono = Mono{} + Seconds{5};
    open("boot-b");
    EXPECT_EQ(0U, store_->trim(now_, {Seconds{50}, Seconds{50}, 0}).value());
    advance(Seconds{50});
    EXPECT_EQ(1U, store_->trim(now_, {Seconds{50}, Seconds{50}, 0}).value());
}

TEST_F(StoreTest, AClockThatIsYearsAheadAtTheStartOfTheMachineDoesNotEmptyTheLog) {
    constexpr TrimLimits kDay{Seconds{86'400}, Seconds{86'400}, 0};
    commit_ok({row(Kind::kEvent, "e")});
    advance(Seconds{60});
    commit_ok({row(Kind::kEvent, "e")});
    now_.wall += std::chrono::duration_cast<Millis>(std::chrono::years{10});
    now_.mono = Mono{} + Seconds{5};
    open("boot-b");
    EXPECT_EQ(0U, store_->trim(now_, kDay).value());
    now_.wall -= std::chrono::duration_cast<Millis>(std::chrono::years{10});  // It is set right.
    open("boot-b");
    EXPECT_EQ(0U, store_->trim(now_, kDay).value());
    advance(Seconds{86'400});
    EXPECT_EQ(2U, store_->trim(now_, kDay).value());
}

TEST_F(StoreTest, TheTimeThatAMachineWasOffCountsUpToABound) {
    constexpr TrimLimits kLimits{Seconds{4'000}, Seconds{4'000}, 0};
    commit_ok({row(Kind::kEvent, "e")});
    now_.wall += 10 * kOffMax;
    now_.mono = Mono{} + Seconds{5};
    open("boot-b");
    EXPECT_EQ(0U, store_->trim(now_, kLimits).value());
    advance(Seconds{395});  // With the hour: 4,000 s.
    EXPECT_EQ(0U, store_->trim(now_, kLimits).value());
    advance(Seconds{1});
    EXPECT_EQ(1U, store_->trim(now_, kLimits).value());
}

INSTANTIATE_TEST_SUITE_P(Jumps, StoreClockTest,
                         testing::Values(std::chrono::hours{1}, std::chrono::hours{-1},
                                         std::chrono::hours{24 * 3652},
                                         std::chrono::hours{-24 * 3652}));

TEST_F(StoreTest, RetentionWorksInSlicesAndBySizeTakesTheOldestOfAllStreams) {
    for (int i = 0; i < 3; ++i) {
        std::vector<Message> rows;
        for (int j = 0; j < 600; ++j) {
            rows.push_back(row(j % 2 == 0 ? Kind::kEvent : Kind::kValue, j % 2 == 0 ? "e" : "v"));
        }
        commit_ok(rows);
    }
    const TrimLimits tiny{Seconds{1'000'000}, Seconds{1'000'000}, 1};
    EXPECT_EQ(1000U, store_->trim(now_, tiny).value());
    EXPECT_EQ(999U, stream("e").floor_pos);
    EXPECT_EQ(1000U, stream("v").floor_pos);
    EXPECT_EQ(800U, store_->trim(now_, tiny).value());
    EXPECT_EQ(0U, store_->trim(now_, tiny).value());
    open();
    EXPECT_EQ(1U, loaded_.values.size()) << "the state outlives its row in the log";
    EXPECT_EQ(1800U, loaded_.pos) << "pos never restarts";
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(StoreTest, APoisonRowBecomesAGapAndTheRestOfItsBatchIsCommitted) {
    store_->database().limit_row_bytes(100'000);
    std::vector<Message> rows{row(Kind::kEvent, "e"), row(Kind::kEvent, "e"),
                              row(Kind::kEvent, "e")};
    rows[1].data = std::make_shared<const std::string>(200'000, 'x');
    const auto done = commit(rows);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_THAT(done->poisoned, ElementsAre(2));
    const LogRange found = range("e", 1, 3);
    EXPECT_THAT(seqs(found), ElementsAre(1, 2, 3));
    EXPECT_EQ(Kind::kGap, found.items[1].kind);
    EXPECT_EQ(Kind::kEvent, found.items[2].kind);
}

TEST_F(StoreTest, WhatTheLogTakesTheStateTakesSoThatNoBatchFailsForEver) {
    const std::string key(kNameBytesMax, 'k');
    for (int below = 100; below < 1'000; below += 100) {
        std::vector<Message> rows{row(Kind::kValue, "v", key), row(Kind::kEvent, "e")};
        rows[0].data = std::make_shared<const std::string>(kRowBytesMax - below, 'x');
        const auto done = commit(rows);
        ASSERT_TRUE(done) << below << ": " << done.error().message;
        EXPECT_THAT(done->poisoned, ElementsAre(rows[0].pos));
    }
    std::vector<Message> rows{row(Kind::kValue, "v", key)};
    rows[0].data = std::make_shared<const std::string>(kRecordBytesMax - 2 * key.size() - 512, 'x');
    const auto done = commit(rows);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_THAT(done->poisoned, IsEmpty());
}

TEST_F(StoreTest, AFullDiskIsAnErrorThatLeavesNoTraceAndTheBatchCanBeTriedAgain) {
    commit_ok({row(Kind::kValue, "v")});
    execute("PRAGMA max_page_count=1");  // SQLite keeps the pages that are there, and adds none.
    std::vector<Message> rows;
    for (int i = 0; i < 500; ++i) {
        rows.push_back(row(Kind::kEvent, "e"));
        rows.back().data = std::make_shared<const std::string>(map_of("0123456789"));
    }
    const auto refused = commit(rows);
    ASSERT_FALSE(refused);
    EXPECT_EQ(Errc::kFull, refused.error().code);
    EXPECT_EQ("", stream("e").topic);
    execute("PRAGMA max_page_count=1000000");
    commit_ok(rows);
    EXPECT_EQ(500U, stream("e").seq);
    open();
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(StoreTest, ADamagedValueIsRebuiltFromTheLog) {
    commit_ok({row(Kind::kValue, "t", "a", "1"), row(Kind::kValue, "t", "b", "2")});
    execute("UPDATE state SET body = x'80' WHERE key = 'a'");
    open();
    ASSERT_EQ(2U, loaded_.values.size());
    EXPECT_EQ(map_of("1"), *loaded_.values[0].data);
    EXPECT_THAT(store_->repairs(), ElementsAre(HasSubstr("rebuilt from the log")));
    open();
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(StoreTest, ADamagedRowOfTheLogIsReadAsAGap) {
    commit_ok({row(Kind::kEvent, "e"), row(Kind::kEvent, "e")});
    execute("UPDATE log SET body = x'80' WHERE seq = 1");
    const LogRange found = range("e", 1, 2);
    ASSERT_EQ(2U, found.items.size());
    EXPECT_EQ(Kind::kGap, found.items[0].kind);
    EXPECT_EQ(Kind::kEvent, found.items[1].kind);
}

TEST_F(StoreTest, StateThatIsBehindTheLogIsBroughtUpToIt) {
    commit_ok({row(Kind::kValue, "t", "a", "1")});
    execute("CREATE TABLE kept AS SELECT * FROM state");
    commit_ok({row(Kind::kValue, "t", "a", "2")});
    execute("DELETE FROM state; INSERT INTO state SELECT * FROM kept; DROP TABLE kept");
    open();
    ASSERT_EQ(1U, loaded_.values.size());
    EXPECT_EQ(map_of("2"), *loaded_.values[0].data);
}

TEST_F(StoreTest, AKeyThatEndedInTheLogEndsInStateThatIsBehind) {
    commit_ok({row(Kind::kValue, "t", "a"), row(Kind::kValue, "t", "b")});
    execute("CREATE TABLE kept AS SELECT * FROM state");
    Message last = row(Kind::kValue, "t", "a");
    last.final = true;
    commit_ok({last});
    execute("DELETE FROM state; INSERT INTO state SELECT * FROM kept; DROP TABLE kept");
    for (int starts = 0; starts < 2; ++starts) {
        open();
        ASSERT_EQ(1U, loaded_.values.size());
        EXPECT_EQ("b", loaded_.values[0].key);
    }
    EXPECT_THAT(store_->repairs(), IsEmpty()) << "the second start found nothing to repair";
    EXPECT_EQ(1U, LogReader::open(path_).value().state(now_).value().size());
}

TEST_F(StoreTest, AValueThatIsDamagedInStateAndLogIsDroppedAndNotBelieved) {
    commit_ok({row(Kind::kValue, "t", "a", "1"), row(Kind::kValue, "t", "b", "2")});
    execute("UPDATE state SET body = x'80' WHERE key = 'a'; UPDATE log SET body = x'80'");
    open();
    ASSERT_EQ(1U, loaded_.values.size());
    EXPECT_EQ("b", loaded_.values[0].key);
    EXPECT_THAT(store_->repairs(), ElementsAre(HasSubstr("2 are damaged"),
                                               HasSubstr("is not in the log and was dropped")));
}

TEST_F(StoreTest, ADamagedValueWhoseKeyHasEndedStaysEnded) {
    commit_ok({row(Kind::kValue, "t", "a", "1")});
    execute("CREATE TABLE kept AS SELECT * FROM state");
    Message last = row(Kind::kValue, "t", "a");
    last.final = true;
    commit_ok({last});
    execute("INSERT INTO state SELECT * FROM kept; DROP TABLE kept; UPDATE state SET body = x'80'");
    open();
    EXPECT_THAT(loaded_.values, IsEmpty());
}

TEST_F(StoreTest, ADamagedValueIsNotShownToReaders) {
    commit_ok({row(Kind::kValue, "t", "a"), row(Kind::kValue, "t", "b")});
    execute("UPDATE state SET body = x'80' WHERE key = 'a'");
    const auto shown = LogReader::open(path_, "boot-a").value().state(now_).value();
    ASSERT_EQ(1U, shown.size());
    EXPECT_EQ("b", shown[0].message.key);
}

TEST_F(StoreTest, ADamagedReportIsDroppedWithASentence) {
    Batch batch;
    batch.now = now_;
    for (const char* name : {"p", "q"}) {
        PollState& poll = batch.polls.emplace_back();
        poll.origin = "nas";
        poll.report.poll = name;
        poll.report.topic = "t";
    }
    ASSERT_TRUE(store_->commit(batch));
    execute("UPDATE polls SET at_ms = at_ms + 1 WHERE poll = 'p'");
    open();
    ASSERT_EQ(1U, loaded_.polls.size());
    EXPECT_EQ("q", loaded_.polls[0].report.poll);
    EXPECT_THAT(store_->repairs(), ElementsAre(HasSubstr("damaged report of poll 'p'")));
}

TEST_F(StoreTest, APoisonValueLeavesTheLastGoodOneInTheState) {
    store_->database().limit_row_bytes(100'000);
    commit_ok({row(Kind::kValue, "t", "a", "good")});
    Message poison = row(Kind::kValue, "t", "a");
    poison.data = std::make_shared<const std::string>(200'000, 'x');
    const auto done = commit({poison});
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_THAT(done->poisoned, ElementsAre(2));
    open();
    ASSERT_EQ(1U, loaded_.values.size());
    EXPECT_EQ(map_of("good"), *loaded_.values[0].data);
}

TEST_F(StoreTest, RetentionByAgeWorksInSlices) {
    std::vector<Message> rows;
    for (int i = 0; i < 1500; ++i) {
        rows.push_back(row(i % 2 == 0 ? Kind::kEvent : Kind::kValue, i % 2 == 0 ? "e" : "v"));
    }
    commit_ok(rows);
    advance(Seconds{100});
    const TrimLimits short_lived{Seconds{50}, Seconds{50}, 0};
    EXPECT_EQ(1000U, store_->trim(now_, short_lived).value());
    EXPECT_EQ(500U, store_->trim(now_, short_lived).value());
}

TEST_F(StoreTest, ARangeOfLargeRowsIsCutByItsBytesButHoldsOneAtLeast) {
    std::vector<Message> rows;
    for (int i = 0; i < 3; ++i) {
        rows.push_back(row(Kind::kEvent, "e"));
        rows.back().data = std::make_shared<const std::string>(3u << 20, 'x');
    }
    rows[2].data = std::make_shared<const std::string>(kRangeBytesMax + 1, 'x');
    commit_ok(rows);
    EXPECT_EQ(1U, range("e", 1, 3).range.to);
    EXPECT_THAT(seqs(range("e", 3, 3)), ElementsAre(3));
}

TEST_F(StoreTest, ALogThatLacksCommittedRowsGetsANewEpochAndNeverReusesPositions) {
    commit_ok({row(Kind::kEvent, "e"), row(Kind::kEvent, "e")});
    const std::string epoch = loaded_.epoch;
    execute("DELETE FROM log WHERE seq = 2");
    open();
    EXPECT_NE(epoch, loaded_.epoch);
    EXPECT_EQ(3U, loaded_.pos) << "a gap stands for what is gone";
    EXPECT_EQ(2U, loaded_.streams.at(0).seq);
    const LogRange found = range("e", 1, 2);
    EXPECT_THAT(seqs(found), ElementsAre(1, 2));
    EXPECT_EQ(Kind::kGap, found.items.at(1).kind);
    const std::string renewed = loaded_.epoch;
    open();
    EXPECT_EQ(renewed, loaded_.epoch) << "once is enough";
}

TEST_F(StoreTest, ABatchMayRenewTheEpochOfTheLog) {
    Batch batch;
    batch.now = now_;
    batch.epoch = "another";
    batch.rows = {row(Kind::kEvent, "alert")};
    ASSERT_TRUE(store_->commit(batch));
    open();
    EXPECT_EQ("another", loaded_.epoch);
    EXPECT_EQ(1U, loaded_.pos);
    EXPECT_THAT(store_->repairs(), IsEmpty());
}

TEST_F(StoreTest, TheLogIsReadByTopicPositionAndTime) {
    commit_ok({row(Kind::kEvent, "e"), row(Kind::kEvent, "f")});
    advance(Seconds{10});
    commit_ok({row(Kind::kEvent, "e")});
    LogReader reader = LogReader::open(path_).value();
    const auto count = [&](const LogQuery& query) {
        return reader.read(query, now_).value().size();
    };
    EXPECT_EQ(3U, count({}));
    EXPECT_EQ(2U, count({.topic = "e"}));
    EXPECT_EQ(1U, count({.from_pos = 2, .to_pos = 2}));
    EXPECT_EQ(1U, count({.since = now_.wall}));
    EXPECT_EQ(3U, reader.read({.newest_first = true, .max = 1}, now_).value().at(0).message.pos);
}

TEST_F(StoreTest, ManyRowsAreCommittedInOneTransaction) {
    std::vector<Message> rows;
    for (int i = 0; i < 5000; ++i) {
        rows.push_back(row(Kind::kEvent, "e"));
        rows.back().data = std::make_shared<const std::string>(kEmptyMap);
    }
    commit_ok(rows);
    EXPECT_EQ(5000U, stream("e").seq);
}

}  // namespace
}  // namespace sigmacast::storage
