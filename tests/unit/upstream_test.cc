#include "edge/upstream.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;

class UpstreamTest : public ::testing::Test {
 protected:
    void do_(Upstream::Output output) {
        for (auto& step : output.steps) {
            steps_.push_back(std::move(step));
        }
        for (auto& request : output.requests) {
            requests_.push_back(std::move(request));
        }
    }
    void start() { do_(upstream_.start(clock_.now())); }
    void hear(Message message) { do_(upstream_.on_message(std::move(message), clock_.now())); }
    void hear_value(std::uint64_t seq) { hear(value({.seq = seq}, clock_.now())); }
    void answer(protocol::Any reply) { do_(upstream_.on_reply(std::move(reply), clock_.now())); }
    void answer_snapshot(std::uint64_t seq = 0, std::vector<PollState> polls = {},
                         std::string epoch = kEpoch) {
        answer(snapshot(asked_snapshots().back(), {{"nas", "system.status", seq}}, std::move(polls),
                        {}, std::move(epoch)));
    }
    void join() {
        start();
        answer_snapshot();
        requests_.clear();
        steps_.clear();
    }
    /// Moves time on, with the timer where it is due.
    void wait(Millis span) {
        const Mono end = clock_.now().mono + span;
        while (upstream_.deadline() && *upstream_.deadline() <= end) {
            clock_.advance(elapsed(clock_.now().mono, *upstream_.deadline()) + Millis{1});
            do_(upstream_.on_timer(clock_.now()));
        }
        clock_.advance(elapsed(clock_.now().mono, end));
    }

    std::vector<std::uint64_t> values() const {
        std::vector<std::uint64_t> seqs;
        for (const auto& step : steps_) {
            if (const auto* message = std::get_if<Message>(&step)) {
                seqs.push_back(message->seq);
            }
        }
        return seqs;
    }
    std::vector<bool> uplink() const {
        std::vector<bool> changes;
        for (const auto& step : steps_) {
            if (const auto* change = std::get_if<Upstream::UplinkChange>(&step)) {
                changes.push_back(change->up);
            }
        }
        return changes;
    }
    template <class T>
    std::size_t count() const {
        std::size_t n = 0;
        for (const auto& step : steps_) {
            n += std::holds_alternative<T>(step) ? 1u : 0u;
        }
        return n;
    }
    std::vector<std::uint64_t> asked_snapshots() const {
        std::vector<std::uint64_t> ids;
        for (const auto& request : requests_) {
            if (const auto* asked = std::get_if<protocol::SnapshotRequest>(&request)) {
                ids.push_back(asked->id);
            }
        }
        return ids;
    }
    std::vector<sequence::Range> asked_ranges() const {
        std::vector<sequence::Range> ranges;
        for (const auto& request : requests_) {
            if (const auto* asked = std::get_if<protocol::Ask>(&request)) {
                ranges.push_back(asked->range);
            }
        }
        return ranges;
    }
    protocol::Range range(std::vector<std::uint64_t> seqs, sequence::Range of) {
        protocol::Range reply;
        reply.origin = "nas";
        reply.topic = "system.status";
        reply.epoch = kEpoch;
        reply.range = of;
        for (const std::uint64_t seq : seqs) {
            reply.items.push_back(value({.seq = seq}, clock_.now()));
        }
        return reply;
    }

    using Seqs = std::vector<std::uint64_t>;
    Clock clock_;
    Upstream upstream_{Random(7), {}};
    std::vector<Upstream::Step> steps_;
    std::vector<protocol::Any> requests_;
};

TEST_F(UpstreamTest, AHeadTellsWhichOriginDeclaredPollsFirstThoughItsPollsHaveToWait) {
    join();
    const Age age = live(clock_.now());
    PollState published = state_poll_state("room.lamp", 1, age);
    published.origin = "script";
    hear(head(9, {{"nas", "system.status", 3}},  // Which is not whole here.
              {published, poll_state({}, 1, age),
               poll_state({.topic = "other", .origin = "late"}, 1, age)}));
    std::vector<std::string> first;
    for (const auto& step : steps_) {
        if (const auto* origin = std::get_if<Upstream::FirstOrigin>(&step)) {
            first.push_back(origin->name);
        }
    }
    EXPECT_EQ(first, std::vector<std::string>{"nas"});
}

TEST_F(UpstreamTest, WhatArrivesBeforeTheSnapshotWaitsAndWhatItHoldsIsDropped) {
    start();
    hear_value(4);
    hear_value(5);
    hear_value(6);
    EXPECT_TRUE(steps_.empty());
    answer_snapshot(5);
    EXPECT_EQ(values(), Seqs{6});
    EXPECT_TRUE(upstream_.ready());
}

TEST_F(UpstreamTest, TheSnapshotIsAskedForAgainUntilItIsAnsweredOneAtATime) {
    start();
    EXPECT_EQ(asked_snapshots().size(), 1u);
    wait(Millis{60'000});
    EXPECT_GE(asked_snapshots().size(), 10u);
    EXPECT_LE(asked_snapshots().size(), 20u);
    answer_snapshot();
    requests_.clear();
    wait(Millis{60'000});
    EXPECT_TRUE(asked_snapshots().empty());
}

TEST_F(UpstreamTest, AnAnswerThatNobodyAskedForIsIgnored) {
    join();
    answer(snapshot(1, {}));
    EXPECT_EQ(count<protocol::Snapshot>(), 0u);
}

TEST_F(UpstreamTest, AHoleIsAskedForAndFilledInOrder) {
    join();
    hear_value(1);
    hear_value(4);
    ASSERT_EQ(asked_ranges().size(), 1u);
    EXPECT_EQ(asked_ranges()[0], (sequence::Range{2, 3}));
    answer(range({2, 3}, {2, 3}));
    EXPECT_EQ(values(), (Seqs{1, 2, 3, 4}));
}

TEST_F(UpstreamTest, AnAnswerThatNoStreamWaitsForIsForTheHub) {
    join();
    hear_value(1);
    hear_value(2);
    protocol::Range range;
    range.origin = "nas";
    range.topic = "system.status";
    range.epoch = kEpoch;
    range.range = {1, 2};
    range.items = {value({.seq = 1}, clock_.now()), value({.seq = 2}, clock_.now())};
    answer(range);
    EXPECT_EQ(count<protocol::Range>(), 1u);
    EXPECT_EQ(values(), (std::vector<std::uint64_t>{1, 2}));
}

TEST_F(UpstreamTest, DuplicatesAreDropped) {
    join();
    hear_value(1);
    hear_value(1);
    EXPECT_EQ(values(), Seqs{1});
}

TEST_F(UpstreamTest, AHeadShowsALossAtTheEnd) {
    join();
    hear_value(1);
    hear(head(102, {{"nas", "system.status", 2}}));
    ASSERT_EQ(asked_ranges().size(), 1u);
    EXPECT_EQ(asked_ranges()[0], (sequence::Range{2, 2}));
}

TEST_F(UpstreamTest, WhatTheLogHasNoMoreIsTold) {
    join();
    hear_value(3);
    answer(range({}, {1, 2}));
    EXPECT_EQ(count<Upstream::Lost>(), 1u);
    EXPECT_EQ(values(), Seqs{3});
}

TEST_F(UpstreamTest, AnUnansweredHoleEndsInANewSnapshot) {
    join();
    hear_value(3);
    for (int i = 0; i < 20; ++i) {
        wait(Millis{1'000});
        hear(head(100, {}));
    }
    EXPECT_GE(asked_snapshots().size(), 1u);
    answer_snapshot(3);
    EXPECT_EQ(count<protocol::Snapshot>(), 1u);
    hear_value(4);
    EXPECT_EQ(values().back(), 4u);
}

TEST_F(UpstreamTest, AnotherLogEpochLeadsToANewSnapshot) {
    join();
    hear(head(1, {}, {}, "another"));
    ASSERT_EQ(asked_snapshots().size(), 1u);
    answer_snapshot(9, {}, "another");
    Message next = value({.seq = 10}, clock_.now());
    next.epoch = "another";
    hear(next);
    EXPECT_EQ(values(), Seqs{10});
}

TEST_F(UpstreamTest, AHeadBelowWhatTheFeedBroughtLeadsToANewSnapshotAndVouchesForNothing) {
    join();
    hear_value(1);
    hear_value(2);
    steps_.clear();
    hear(head(101, {{"nas", "system.status", 1}}, {poll_state({}, 2, live(clock_.now()))}));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u);
    ASSERT_EQ(asked_snapshots().size(), 1u);
    const auto& request = std::get<protocol::SnapshotRequest>(requests_.back());
    EXPECT_EQ(request.epoch, kEpoch);
    EXPECT_EQ(request.pos, 102u);
}

TEST_F(UpstreamTest, APositionThatIsUsedAgainLeadsToANewSnapshot) {
    join();
    hear_value(1);
    hear_value(2);
    hear_value(1);
    EXPECT_EQ(asked_snapshots().size(), 1u);
    EXPECT_EQ(values(), (Seqs{1, 2}));
}

TEST_F(UpstreamTest, AHeadBelowTheSnapshotIsLateAtFirstAndThenALogThatLostRows) {
    join();
    hear(head(99, {}));
    EXPECT_TRUE(asked_snapshots().empty()) << "it was under way when the snapshot was made";
    wait(Upstream::kUplinkSilence);
    hear(head(99, {}));
    ASSERT_EQ(asked_snapshots().size(), 1u);
    EXPECT_EQ(std::get<protocol::SnapshotRequest>(requests_.back()).pos, 100u);
}

TEST_F(UpstreamTest, TheFirstRequestClaimsNothing) {
    start();
    const auto& request = std::get<protocol::SnapshotRequest>(requests_.back());
    EXPECT_EQ(request.epoch, "");
    EXPECT_EQ(request.pos, 0u);
}

TEST_F(UpstreamTest, AfterASnapshotThatIsOlderThanWhatWasSentItsPositionsCountAnew) {
    join();
    hear_value(1);
    hear_value(2);
    hear(head(100, {}));
    answer_snapshot(0);
    requests_.clear();
    steps_.clear();
    hear_value(1);
    hear(head(101, {{"nas", "system.status", 1}}));
    EXPECT_EQ(values(), Seqs{1});
    EXPECT_TRUE(asked_snapshots().empty()) << "no circle";
}

TEST_F(UpstreamTest, AHeadThatWasHeardBeforeBufferedValuesIsNoStepBack) {
    start();
    hear(head(101, {}));
    hear(value({.seq = 2}, clock_.now()));
    answer_snapshot(1);
    EXPECT_EQ(values(), Seqs{2});
    EXPECT_EQ(asked_snapshots().size(), 1u);
}

TEST_F(UpstreamTest, ThreeMissedHeadsTakeTheUplinkDownAndOneBringsItBack) {
    join();
    hear(head(100, {}));
    wait(Millis{2'990});
    EXPECT_TRUE(uplink().empty());
    wait(Millis{100});
    EXPECT_EQ(uplink(), std::vector<bool>{false});
    wait(Millis{10'000});
    hear(head(100, {}));
    EXPECT_EQ(uplink(), (std::vector<bool>{false, true}));
}

TEST_F(UpstreamTest, AHeadThatWaitedInFrontOfAFrozenEdgeIsNoSignOfLife) {
    join();
    wait(Millis{4'000});
    do_(upstream_.on_message(head(100, {}), clock_.now(), clock_.now().mono - Millis{3'500}));
    EXPECT_EQ(uplink(), std::vector<bool>{false});
    do_(upstream_.on_message(head(100, {}), clock_.now(), clock_.now().mono - Millis{10}));
    EXPECT_EQ(uplink(), (std::vector<bool>{false, true}));
}

TEST_F(UpstreamTest, TheUplinkIsUpOnlyWhenTheHolesAreFilled) {
    join();
    wait(Millis{4'000});
    hear(head(102, {{"nas", "system.status", 2}}));
    EXPECT_EQ(uplink(), std::vector<bool>{false});
    answer(range({1, 2}, {1, 2}));
    EXPECT_EQ(uplink(), (std::vector<bool>{false, true}));
}

TEST_F(UpstreamTest, AHoleThatRepairDoesNotFillTakesTheUplinkDownThoughHeadsCome) {
    join();
    const auto a_second_with_a_head = [&] {
        hear(head(103, {{"nas", "system.status", 3}}));
        wait(Seconds{1});
    };
    hear(head(100, {}));
    hear_value(3);
    a_second_with_a_head();
    a_second_with_a_head();
    EXPECT_EQ(uplink(), std::vector<bool>{});
    a_second_with_a_head();
    EXPECT_EQ(uplink(), std::vector<bool>{false});
    answer(range({1, 2}, {1, 2}));
    EXPECT_EQ(uplink(), (std::vector<bool>{false, true}));
}

TEST_F(UpstreamTest, ASnapshotThatTakesOverFromARepairInVainHasNoMoreTime) {
    join();
    hear(head(100, {}));
    hear_value(3);
    wait(Millis{2'000});
    Message other = value({.seq = 1}, clock_.now());
    other.epoch = "another";
    hear(other);
    hear(head(1, {}, {}, "another"));
    EXPECT_EQ(uplink(), std::vector<bool>{});
    wait(Millis{1'100});
    EXPECT_EQ(uplink(), std::vector<bool>{false});
}

TEST_F(UpstreamTest, ALongHoleThatIsFilledBitByBitLeavesTheUplinkUp) {
    join();
    hear_value(20);
    for (std::uint64_t seq = 1; seq <= 10; ++seq) {
        wait(Millis{900});
        hear(head(120, {{"nas", "system.status", 20}}));
        answer(range({seq}, {seq, seq}));
    }
    EXPECT_EQ(uplink(), std::vector<bool>{});
}

TEST_F(UpstreamTest, AReportPassesAfterTheValuesThatWereMissingBeforeIt) {
    join();
    hear_value(2);
    hear(report(poll_state({}, 1, live(clock_.now()))));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u);
    answer(range({1}, {1, 1}));
    ASSERT_EQ(count<Upstream::PollUpdate>(), 1u);
    EXPECT_TRUE(std::holds_alternative<Upstream::PollUpdate>(steps_.back()) ||
                std::holds_alternative<Upstream::Bookmark>(steps_.back()));
    EXPECT_EQ(values(), (Seqs{1, 2}));
}

TEST_F(UpstreamTest, AReportWhoseValueWasLostWaitsForItAndAsksAtOnce) {
    join();
    Message good = report(poll_state({}, 1, live(clock_.now())));
    std::get<Report>(good.detail).after = {{"system.status", 1}};
    hear(good);
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u) << "it would vouch for the value before";
    EXPECT_EQ(asked_ranges(), (std::vector<sequence::Range>{{1, 1}}));
    answer(range({1}, {1, 1}));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 1u);
    EXPECT_EQ(values(), (Seqs{1}));
}

TEST_F(UpstreamTest, AHeadThatWaitedIsNotToldBehindANewerTransition) {
    join();
    const Now before = clock_.now();
    hear(head(1, {{"nas", "system.status", 1}},
              {poll_state({}, 1, stale(before, "BROKER_RESTARTED", "broker"))}));
    hear(transition({.seq = 2}, live(before), before));
    EXPECT_EQ(values(), (Seqs{}));
    answer(range({1}, {1, 1}));
    EXPECT_EQ(values(), (Seqs{1, 2}));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u) << "live, stale, and live again";
}

TEST_F(UpstreamTest, AHeadThatWaitedIsNotToldBehindANewerTransitionThatIsNotLogged) {
    join();
    const Now before = clock_.now();
    hear(head(1, {{"nas", "system.status", 1}},
              {poll_state({}, 1, stale(before, "BROKER_RESTARTED", "broker"))}));
    hear(unlogged(transition({}, live(before), before), 1));
    answer(range({1}, {1, 1}));
    EXPECT_EQ(values(), (Seqs{1, 0}));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u) << "live, stale, and live again";
}

TEST_F(UpstreamTest, AReportThatWaitedIsToldBehindTheTransitionBeforeIt) {
    join();
    const Age now = live(clock_.now());
    hear(transition({.seq = 2}, now, clock_.now()));
    hear(report(poll_state({}, 1, now)));
    answer(range({1}, {1, 1}));
    EXPECT_EQ(values(), (Seqs{1, 2}));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 1u);
}

TEST_F(UpstreamTest, WhereValuesAreLostASnapshotSaysHowTheyAreAndNothingVouchesForThoseBefore) {
    join();
    hear_value(1);
    hear(head(103, {{"nas", "system.status", 3}}, {poll_state({}, 2, live(clock_.now()))}));
    requests_.clear();
    answer(range({}, {2, 3}));  // The log has trimmed them.
    EXPECT_EQ(count<Upstream::Lost>(), 1u);
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u) << "it would vouch for the first value";
    ASSERT_EQ(asked_snapshots().size(), 1u);
    answer_snapshot(3);
    EXPECT_EQ(count<protocol::Snapshot>(), 1u);
}

TEST_F(UpstreamTest, WhereEventsAloneAreLostNoSnapshotIsAskedFor) {
    join();
    hear(event({.seq = 1}, clock_.now()));
    hear(event({.seq = 4}, clock_.now()));
    requests_.clear();
    answer(range({}, {2, 3}));
    EXPECT_EQ(count<Upstream::Lost>(), 1u);
    EXPECT_TRUE(asked_snapshots().empty());
    EXPECT_EQ(values(), (Seqs{1, 4}));
}

TEST_F(UpstreamTest, AReportOfAnotherLogVouchesForNothing) {
    join();
    hear_value(1);
    requests_.clear();
    Message other = report(poll_state({}, 2, live(clock_.now())));
    other.epoch = "another";
    hear(other);
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u);
    EXPECT_EQ(asked_snapshots().size(), 1u);
}

TEST_F(UpstreamTest, HeadsAloneDoNotKeepTheUplinkUpWhileNoSnapshotComes) {
    join();
    hear(head(1, {}));
    Message other = value({.seq = 1}, clock_.now());
    other.epoch = "another";
    hear(other);
    for (int i = 0; i < 4; ++i) {
        hear(head(1, {}));
        wait(Seconds{1});
    }
    ASSERT_FALSE(uplink().empty());
    EXPECT_FALSE(uplink().back());
}

TEST_F(UpstreamTest, AHeadFromBeforeTheSnapshotIsNotAppliedOverIt) {
    start();
    hear(head(1, {}, {poll_state({}, 1, live(clock_.now()))}));
    protocol::Snapshot newer = snapshot(asked_snapshots().back(), {}, {}, {}, kEpoch);
    newer.pos = 2;
    answer(newer);
    EXPECT_EQ(count<Upstream::PollUpdate>(), 0u);
}

TEST_F(UpstreamTest, ABookmarkIsAHeadWhoseEveryStreamWasReached) {
    join();
    hear(head(101, {{"nas", "system.status", 1}}));
    EXPECT_EQ(count<Upstream::Bookmark>(), 0u);
    hear_value(1);
    EXPECT_EQ(count<Upstream::Bookmark>(), 1u);
}

TEST_F(UpstreamTest, TopicsThatAreNotWantedAreNeitherDeliveredNorAskedFor) {
    upstream_ = Upstream(Random(7), {"agent.status"});
    join();
    hear_value(5);
    hear(head(100, {{"nas", "system.status", 9}}));
    EXPECT_TRUE(values().empty());
    EXPECT_TRUE(asked_ranges().empty());
}

TEST_F(UpstreamTest, WhatIsNotLoggedPassesAtOnce) {
    join();
    hear(head(100, {}));
    hear(unlogged(value({}, clock_.now())));
    EXPECT_EQ(values(), Seqs{0});
}

TEST_F(UpstreamTest, AnUnloggedValueFromBeforeTheSnapshotDoesNotBringAnEndedKeyBack) {
    start();
    hear(unlogged(value({.key = "job"}, clock_.now()), 8));
    answer_snapshot(9);
    hear(unlogged(value({.key = "job"}, clock_.now()), 8));
    EXPECT_TRUE(values().empty());
}

TEST_F(UpstreamTest, OfWhatIsNotLoggedASnapshotHoldsWhatItSays) {
    start();
    hear(unlogged(value({.key = "before"}, clock_.now()), 9, {1, 4}));
    hear(unlogged(value({.key = "behind"}, clock_.now()), 9, {1, 5}));
    answer(snapshot(asked_snapshots().back(), {{"nas", "system.status", 9, false, {1, 4}}}));
    hear(unlogged(value({.key = "behind"}, clock_.now()), 9, {1, 5}));
    EXPECT_EQ(values(), Seqs{0});
    const bool behind = std::ranges::any_of(steps_, [](const Upstream::Step& step) {
        const auto* message = std::get_if<Message>(&step);
        return message != nullptr && message->key == "behind";
    });
    EXPECT_TRUE(behind);
    EXPECT_EQ(asked_snapshots().size(), 1u);
}

TEST_F(UpstreamTest, AnUnloggedValueComesBehindWhatIsLoggedBeforeIt) {
    join();
    hear(unlogged(value({.key = "job", .final = true}, clock_.now()), 2));
    EXPECT_TRUE(values().empty());
    ASSERT_EQ(asked_ranges().size(), 1u);
    answer(range({1, 2}, asked_ranges().back()));
    EXPECT_EQ(values(), (Seqs{1, 2, 0}));
}

TEST_F(UpstreamTest, AnUnloggedValueThatIsOvertakenByTheLogIsDropped) {
    join();
    hear_value(1);
    hear_value(2);
    hear(unlogged(value({}, clock_.now()), 1));
    EXPECT_EQ(values(), (Seqs{1, 2}));
}

TEST_F(UpstreamTest, WhereAnUnloggedValueWasLostNothingVouchesForTheOneBeforeIt) {
    const std::string topic = "system.status";
    for (const std::string by : {"report", "head", "value", "waiting report"}) {
        upstream_ = Upstream(Random(7), {});
        join();
        hear(unlogged(value({}, clock_.now()), 0, {1, 1}));
        steps_.clear();
        PollState state = poll_state({}, 1, live(clock_.now()));
        if (by == "report") {
            state.report.after = {{topic, 0, {1, 2}}};
            hear(report(state));
        } else if (by == "head") {
            hear(head(100, {{"nas", topic, 0, false, {1, 2}}}, {state}));
        } else if (by == "value") {
            hear(unlogged(value({}, clock_.now()), 0, {1, 3}));
        } else {
            hear(unlogged(value({}, clock_.now()), 1, {1, 1}));
            state.report.after = {{topic, 1, {1, 2}}};
            hear(report(state));
            answer(range({1}, {1, 1}));
        }
        EXPECT_EQ(count<Upstream::PollUpdate>(), 0u) << by;
        EXPECT_EQ(asked_snapshots().size(), 1u) << by;
    }
}

TEST_F(UpstreamTest, WhatIsNotLoggedIsTakenOnceInEachRunOfTheBroker) {
    join();
    hear(unlogged(value({}, clock_.now()), 0, {1, 1}));
    hear(unlogged(value({}, clock_.now()), 0, {1, 1}));
    hear(unlogged(value({}, clock_.now()), 0, {1, 2}));
    EXPECT_EQ(values().size(), 2u);
    hear(unlogged(value({}, clock_.now()), 0, {2, 1}));
    EXPECT_EQ(values().size(), 3u);
    EXPECT_TRUE(asked_snapshots().empty());
}

TEST_F(UpstreamTest, AHeadVouchesForAStreamOnlyOnceItIsWhole) {
    join();
    hear(head(101, {{"nas", "t", 1}},
              {state_poll_state("t", 1, live(clock_.now())),
               state_poll_state("other", 1, live(clock_.now()))}));
    ASSERT_EQ(count<Upstream::PollUpdate>(), 1u);
    hear(value({.topic = "t", .poll = state_poll("t")}, clock_.now()));
    EXPECT_EQ(count<Upstream::PollUpdate>(), 2u);
}

TEST_F(UpstreamTest, RecordsOfASnapshotThatCannotBeReadAreCounted) {
    start();
    protocol::Snapshot damaged = snapshot(asked_snapshots().back(), {});
    damaged.unreadable = 3;
    answer(damaged);
    EXPECT_EQ(upstream_.counters().unreadable, 3u);
}

}  // namespace
}  // namespace sigmacast::edge
