#include "broker/freshness.h"

#include <gtest/gtest.h>

namespace sigmacast::broker {
namespace {

/// One origin "nas" with one poll "p" of 5 s, in virtual time.
class FreshnessTest : public testing::Test {
 protected:
    void declare() { freshness_.declare("nas", {{"p", "topic", Seconds{5}, Seconds{3}}}, now_); }
    std::optional<Change> good() {
        Report report = made();
        report.ok = true;
        report.as_of = AsOf{now_.wall, now_.mono};
        return freshness_.on_report("nas", report, ++seq_, now_.mono, now_);
    }
    std::optional<Change> bad(const std::string& code, const std::string& source = "engine") {
        Report report = made();
        report.code = code;
        report.source = source;
        return freshness_.on_report("nas", report, ++seq_, now_.mono, now_);
    }
    static Report made() {
        Report report;
        report.poll = "p";
        report.topic = "topic";
        report.interval = Seconds{5};
        return report;
    }
    void head() { freshness_.on_head("nas", now_.mono, now_); }
    std::optional<Change> vouch(const std::string& topic) {
        head();
        return freshness_.vouch("nas", topic, AsOf{now_.wall, now_.mono}, now_.mono, now_);
    }
    std::vector<Change> tick() { return freshness_.on_tick(now_); }
    void advance(Millis by) {
        now_.mono += by;
        now_.wall += by;
    }
    /// Heads go on each second.
    std::vector<Change> live_through(Millis span) {
        std::vector<Change> changes;
        for (const Mono end = now_.mono + span; now_.mono < end;) {
            advance(std::min(Millis{1000}, std::chrono::duration_cast<Millis>(end - now_.mono)));
            head();
            for (Change& change : tick()) {
                changes.push_back(std::move(change));
            }
        }
        return changes;
    }
    [[nodiscard]] const Age& age() const { return freshness_.find("nas", "p")->age; }

    Freshness freshness_;
    Now now_{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    std::uint64_t seq_ = 0;
};

TEST_F(FreshnessTest, ADeclaredPollIsInitial) {
    declare();
    EXPECT_EQ(Quality::kInitial, age().quality);
}

TEST_F(FreshnessTest, AGoodReportMakesLiveAndASecondOneIsNoChange) {
    declare();
    const auto change = good();
    ASSERT_TRUE(change);
    EXPECT_EQ(Quality::kLive, change->age.quality);
    EXPECT_EQ("topic", change->topic);
    advance(Seconds{5});
    EXPECT_FALSE(good());
    EXPECT_EQ(now_.mono, age().as_of->mono) << "an unchanged answer moves as_of";
}

TEST_F(FreshnessTest, AFailedReportMakesStaleOnceAndKeepsAsOf) {
    declare();
    good();
    const Mono as_of = now_.mono;
    advance(Seconds{5});
    const auto change = bad("RPC_DISCONNECT");
    ASSERT_TRUE(change);
    EXPECT_EQ(Quality::kStale, change->age.quality);
    EXPECT_EQ("RPC_DISCONNECT", change->age.reason);
    EXPECT_EQ("engine", change->age.source);
    EXPECT_EQ(as_of, change->age.as_of->mono);
    EXPECT_FALSE(bad("RPC_DISCONNECT"));
    EXPECT_TRUE(bad("CIRCUIT_BREAKER_OPEN")) << "a new reason is a new transition";
    EXPECT_TRUE(good());
}

TEST_F(FreshnessTest, AFailedReportWithoutKeysKeepsThoseOfTheLastGoodAnswer) {
    declare();
    Report report = made();
    report.ok = true;
    report.keys = {{"a"}};
    freshness_.on_report("nas", report, 1, now_.mono, now_);
    bad("RPC_DISCONNECT");
    EXPECT_EQ(report.keys, freshness_.find("nas", "p")->report.keys);
    report.keys.reset();
    freshness_.on_report("nas", report, 3, now_.mono, now_);
    EXPECT_FALSE(freshness_.find("nas", "p")->report.keys);
}

TEST_F(FreshnessTest, AFailureWithoutAnyValueIsDown) {
    declare();
    ASSERT_TRUE(bad("RPC_DISCONNECT"));
    EXPECT_EQ(Quality::kDown, age().quality);
}

TEST_F(FreshnessTest, AnUnsupportedMethodIsDown) {
    declare();
    Report report = made();
    report.unsupported = true;
    ASSERT_TRUE(freshness_.on_report("nas", report, 1, now_.mono, now_));
    EXPECT_EQ(Quality::kDown, age().quality);
    EXPECT_EQ("METHOD_NOT_FOUND", age().reason);
    EXPECT_EQ("engine", age().source);
}

TEST_F(FreshnessTest, APollIsSilentAfterExactlyTwiceItsIntervalAndTwoSeconds) {
    declare();
    good();
    EXPECT_TRUE(live_through(Millis{11'999}).empty());
    advance(Millis{1});
    head();
    const auto changes = tick();
    ASSERT_EQ(1U, changes.size());
    EXPECT_EQ("POLL_SILENT", changes[0].age.reason);
    EXPECT_EQ("producer", changes[0].age.source);
    EXPECT_EQ(Quality::kStale, changes[0].age.quality);
    EXPECT_TRUE(live_through(Seconds{30}).empty()) << "told once";
    EXPECT_TRUE(good());
}

TEST_F(FreshnessTest, AnOriginIsSilentAfterExactlyThreeSecondsWithoutAHead) {
    declare();
    good();
    head();
    advance(Millis{2'999});
    EXPECT_TRUE(tick().empty());
    advance(Millis{1});
    const auto changes = tick();
    ASSERT_EQ(1U, changes.size());
    EXPECT_EQ("PRODUCER_SILENT", changes[0].age.reason);
    advance(Seconds{60});
    EXPECT_TRUE(tick().empty()) << "told once, and silence of its polls is no news";
}

TEST_F(FreshnessTest, WhatSilenceMadeStaleOnlyAReportMakesLiveAgain) {
    declare();
    good();
    advance(Seconds{4});
    tick();
    head();
    EXPECT_EQ("PRODUCER_SILENT", age().reason);
    ASSERT_TRUE(good());
    EXPECT_EQ(Quality::kLive, age().quality);
}

TEST_F(FreshnessTest, AReportThatWaitedAsLongAsASilenceMakesNothingLive) {
    declare();
    good();
    advance(Seconds{7});
    tick();
    ASSERT_EQ("PRODUCER_SILENT", age().reason);
    Report report = made();  // Made before a freeze of 5 s, after which it is read.
    report.ok = true;
    report.as_of = AsOf{now_.wall - Seconds{5}, now_.mono - Seconds{5}};
    EXPECT_FALSE(
        freshness_.on_report("nas", report, ++seq_, now_.mono - Seconds{5}, now_).has_value());
    freshness_.on_head("nas", now_.mono - Seconds{4}, now_);
    EXPECT_TRUE(tick().empty());
    EXPECT_EQ(Quality::kStale, age().quality);
    EXPECT_EQ(now_.mono - Seconds{5}, age().as_of->mono) << "what it says of the past is true";
    ASSERT_TRUE(good());
    EXPECT_EQ(Quality::kLive, age().quality);
}

TEST_F(FreshnessTest, AReportThatWaitedAsLongAsItsPollMayBeSilentMakesNothingLive) {
    declare();
    good();
    live_through(Seconds{13});
    ASSERT_EQ("POLL_SILENT", age().reason);
    Report report = made();
    report.ok = true;
    report.as_of = AsOf{now_.wall, now_.mono};
    EXPECT_FALSE(
        freshness_.on_report("nas", report, ++seq_, now_.mono - Seconds{12}, now_).has_value());
    EXPECT_TRUE(
        freshness_.on_report("nas", report, ++seq_, now_.mono - Seconds{11}, now_).has_value());
}

TEST_F(FreshnessTest, AGoodReportThatIsSentAgainIsAsOldAsItsAnswer) {
    Report report = made();
    report.ok = true;
    report.as_of = AsOf{now_.wall, now_.mono};
    advance(Seconds{12});
    declare();
    head();
    freshness_.on_report("nas", report, ++seq_, now_.mono, now_);
    EXPECT_EQ(Quality::kStale, age().quality);
    EXPECT_EQ("POLL_SILENT", age().reason);
    EXPECT_EQ(report.as_of->mono, age().as_of->mono);
    ASSERT_TRUE(good());
    EXPECT_EQ(Quality::kLive, age().quality);
}

TEST_F(FreshnessTest, AGoodReportThatIsSentAgainDoesNotStretchTheSilenceAfterIt) {
    declare();
    Report report = made();
    report.ok = true;
    report.as_of = AsOf{now_.wall, now_.mono};
    live_through(Seconds{4});
    freshness_.on_report("nas", report, ++seq_, now_.mono, now_);
    EXPECT_EQ(Quality::kLive, age().quality);
    EXPECT_TRUE(live_through(Seconds{7}).empty());
    EXPECT_EQ(1u, live_through(Seconds{1}).size()) << "2 x 5 s + 2 s after the answer";
    EXPECT_EQ("POLL_SILENT", age().reason);
}

TEST_F(FreshnessTest, TheDeadlineIsTheNextSilence) {
    EXPECT_FALSE(freshness_.deadline());
    declare();
    good();
    EXPECT_EQ(now_.mono + Seconds{3}, freshness_.deadline());
    advance(Seconds{3});
    tick();
    EXPECT_FALSE(freshness_.deadline()) << "nothing more can go silent: no busy loop";
}

TEST_F(FreshnessTest, AStartMakesEverythingStaleAndKeepsAsOfUntilTheFirstGoodReport) {
    PollState poll;
    poll.origin = "nas";
    poll.report = made();
    poll.age.quality = Quality::kLive;
    poll.age.as_of = AsOf{now_.wall, now_.mono};
    const Mono as_of = now_.mono;
    advance(Seconds{100});
    const auto changes = freshness_.on_start({poll}, now_);
    ASSERT_EQ(1U, changes.size());
    EXPECT_EQ(Quality::kStale, age().quality);
    EXPECT_EQ("BROKER_RESTARTED", age().reason);
    EXPECT_EQ("broker", age().source);
    EXPECT_EQ(as_of, age().as_of->mono);
    head();
    EXPECT_EQ("BROKER_RESTARTED", age().reason);
    ASSERT_TRUE(bad("RPC_DISCONNECT"));
    EXPECT_EQ(as_of, age().as_of->mono);
    ASSERT_TRUE(good());
    EXPECT_EQ(Quality::kLive, age().quality);
}

TEST_F(FreshnessTest, AStartLeavesWhatNeverHadAValueAsItWas) {
    PollState poll;
    poll.origin = "nas";
    poll.report = made();
    EXPECT_TRUE(freshness_.on_start({poll}, now_).empty());
    EXPECT_EQ(Quality::kInitial, age().quality);
}

TEST_F(FreshnessTest, StateThatNoPollFeedsFollowsTheHeadsThatVouchForItsTopic) {
    EXPECT_FALSE(vouch("a")) << "its first value says itself that it is live";
    EXPECT_FALSE(vouch("b"));
    advance(Millis{2'999});
    EXPECT_TRUE(tick().empty());
    EXPECT_FALSE(vouch("b"));
    EXPECT_EQ(now_.mono + Millis{1}, freshness_.deadline());
    advance(Millis{1});
    const auto changes = tick();
    ASSERT_EQ(1U, changes.size()) << "a head that is silent about a topic does not vouch for it";
    EXPECT_EQ("state:a", changes[0].poll);
    EXPECT_EQ("a", changes[0].topic);
    EXPECT_EQ(Quality::kStale, changes[0].age.quality);
    EXPECT_EQ("PRODUCER_SILENT", changes[0].age.reason);
    EXPECT_EQ("producer", changes[0].age.source);
    const auto back = vouch("a");
    ASSERT_TRUE(back);
    EXPECT_EQ(Quality::kLive, back->age.quality);
}

TEST_F(FreshnessTest, StateThatNoPollFeedsIsAsOldAsTheNewestHeadThatVouchedForIt) {
    vouch("a");
    advance(Seconds{1});
    vouch("a");
    const Now newest = now_;
    const std::uint64_t seq = freshness_.find("nas", "state:a")->report_seq;
    EXPECT_EQ(newest.mono, freshness_.find("nas", "state:a")->age.as_of->mono);
    advance(Seconds{1});
    freshness_.vouch("nas", "a", AsOf{newest.wall, newest.mono - Seconds{5}}, now_.mono, now_);
    EXPECT_EQ(newest.mono, freshness_.find("nas", "state:a")->age.as_of->mono) << "never older";
    freshness_.vouch("nas", "a", std::nullopt, now_.mono, now_);
    EXPECT_EQ(newest.mono, freshness_.find("nas", "state:a")->age.as_of->mono);
    EXPECT_EQ(seq + 2, freshness_.find("nas", "state:a")->report_seq);
    advance(Seconds{3});
    tick();
    EXPECT_EQ(newest.mono, freshness_.find("nas", "state:a")->age.as_of->mono);
}

/// What waited in a network that was cut reaches a broker that has just started, and has heard of
/// nothing for less than a silence.
TEST_F(FreshnessTest, ASignOfLifeFromBeforeARestartMakesStateThatNoPollFeedsNotLive) {
    vouch("room.lamp");
    const PollState known = *freshness_.find("nas", "state:room.lamp");
    const Now then = now_;
    advance(Seconds{10});
    Freshness restarted;
    EXPECT_EQ(1u, restarted.on_start({known}, now_).size());
    const auto change =
        restarted.vouch("nas", "room.lamp", AsOf{then.wall, then.mono}, then.mono, now_);
    EXPECT_TRUE(!change || change->age.quality == Quality::kStale);
    const Age& age = restarted.find("nas", "state:room.lamp")->age;
    EXPECT_EQ(Quality::kStale, age.quality);
    EXPECT_EQ(then.mono, age.as_of->mono);
    const auto back =
        restarted.vouch("nas", "room.lamp", AsOf{now_.wall, now_.mono}, now_.mono, now_);
    ASSERT_TRUE(back);
    EXPECT_EQ(Quality::kLive, back->age.quality);
}

TEST_F(FreshnessTest, ANewOwnerHasVouchedForNothingYet) {
    declare();
    good();
    vouch("a");
    const auto changes = freshness_.on_new_owner("nas");
    ASSERT_EQ(1U, changes.size()) << "polls are judged by their reports";
    EXPECT_EQ("state:a", changes[0].poll);
    EXPECT_EQ("PRODUCER_SILENT", changes[0].age.reason);
}

TEST_F(FreshnessTest, NoReportSpeaksForStateThatNoPollFeeds) {
    vouch("a");
    advance(Seconds{3});
    tick();
    Report report = made();
    report.poll = "state:a";
    report.ok = true;
    EXPECT_FALSE(freshness_.on_report("nas", report, 1, now_.mono, now_));
    EXPECT_EQ(Quality::kStale, freshness_.find("nas", "state:a")->age.quality);
}

TEST_F(FreshnessTest, OriginsAreJudgedApart) {
    declare();
    good();
    freshness_.declare("other", {{"p", "topic", Seconds{5}, Seconds{3}}}, now_);
    advance(Seconds{3});
    head();
    const auto changes = tick();
    ASSERT_EQ(1U, changes.size());
    EXPECT_EQ("other", changes[0].origin);
}

}  // namespace
}  // namespace sigmacast::broker
