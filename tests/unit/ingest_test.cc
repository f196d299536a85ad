#include "broker/ingest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sigmacast::broker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

/// Producers "a" and "b", each with epoch 1 and its own peer, in virtual time.
class IngestTest : public testing::Test {
 protected:
    IngestTest() {
        hello("a", "i", 1);
        hello("b", "i", 1);
    }

    Ingest::Greeting hello(const std::string& origin, const std::string& instance,
                           std::uint64_t epoch) {
        return ingest_.on_hello("peer-" + origin, {origin, instance, epoch, true, {}}, now_)
            .value();
    }
    static bool welcomed(const Ingest::Greeting& greeting) {
        return std::holds_alternative<protocol::Welcome>(greeting.answer);
    }
    protocol::Any sync(const std::string& origin, const std::string& instance,
                       std::uint64_t epoch) {
        return ingest_.on_sync("peer-" + origin, {origin, instance, epoch});
    }
    static Message made(Kind kind, const std::string& origin, const std::string& topic,
                        std::uint64_t seq, std::uint64_t epoch) {
        Message message;
        message.kind = kind;
        message.origin = origin;
        message.topic = topic;
        message.seq = seq;
        message.epoch = std::to_string(epoch);
        return message;
    }
    std::vector<std::string> send(const Message& message) {
        return note(ingest_.on_message(message, admit_, now_));
    }
    std::vector<std::string> event(const std::string& origin, std::uint64_t seq,
                                   std::uint64_t epoch = 1) {
        return send(made(Kind::kEvent, origin, "e", seq, epoch));
    }
    std::vector<std::string> value(const std::string& origin, std::uint64_t seq) {
        return send(made(Kind::kValue, origin, "v", seq, 1));
    }
    std::vector<std::string> report(std::uint64_t seq, std::uint64_t after) {
        Message message = made(Kind::kReport, "a", "poll.p", seq, 1);
        Report report;
        report.poll = "p";
        report.after = {{"v", after}};
        message.detail = report;
        return send(message);
    }
    std::vector<std::string> head(const std::string& origin, const std::string& topic,
                                  std::uint64_t seq) {
        Message message = made(Kind::kHead, origin, "head", 0, 1);
        message.detail = Head{0, {{origin, topic, seq}}, {}};
        return send(message);
    }
    std::vector<std::string> range(const std::string& peer, const std::string& topic,
                                   std::uint64_t from, std::uint64_t to,
                                   const std::vector<std::uint64_t>& seqs,
                                   std::vector<sequence::Range> superseded = {},
                                   std::uint64_t newest = 0) {
        protocol::Range range;
        range.origin = "a";
        range.topic = topic;
        range.epoch = "1";
        range.range = {from, to};
        range.superseded = std::move(superseded);
        range.newest = newest;
        for (const std::uint64_t seq : seqs) {
            range.items.push_back(
                made(topic == "e" ? Kind::kEvent : Kind::kValue, "a", topic, seq, 1));
        }
        return note(ingest_.on_range(peer, range, admit_, now_));
    }
    /// "e1" an event, "v1" a value, "r1" a report, "gap1-2" a hole; what is asked goes to asks_.
    std::vector<std::string> note(const Ingest::Actions& actions) {
        std::vector<std::string> delivered;
        for (const Message& message : actions.deliver) {
            if (message.kind == Kind::kGap) {
                delivered.push_back("gap" + std::to_string(message.seq) + "-" +
                                    std::to_string(message.gap().to));
            } else {
                const char* name = message.kind == Kind::kEvent   ? "e"
                                   : message.kind == Kind::kValue ? "v"
                                                                  : "r";
                delivered.push_back(name + std::to_string(message.seq));
            }
        }
        for (const Outgoing& outgoing : actions.send) {
            const auto& ask = std::get<protocol::Ask>(outgoing.message);
            asks_.push_back(outgoing.peer + ":" + ask.topic + std::to_string(ask.range.from) + "-" +
                            std::to_string(ask.range.to));
        }
        return delivered;
    }
    std::vector<std::string> run_timers_for(Millis span) {
        std::vector<std::string> delivered;
        for (const Mono end = now_.mono + span; now_.mono < end;) {
            now_.mono += Millis{10};
            for (std::string& one : note(ingest_.on_timer(admit_, now_))) {
                delivered.push_back(std::move(one));
            }
        }
        return delivered;
    }

    Ingest ingest_{Random(1)};
    Now now_{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    Admit admit_ = Admit::kAll;
    std::vector<std::string> asks_;
};

TEST_F(IngestTest, MessagesAreDeliveredInOrderAndOnce) {
    EXPECT_THAT(event("a", 1), ElementsAre("e1"));
    EXPECT_THAT(event("a", 1), IsEmpty());
    EXPECT_THAT(event("a", 2), ElementsAre("e2"));
    EXPECT_THAT(asks_, IsEmpty());
}

TEST_F(IngestTest, AGapIsAskedForAndRepairedInOrder) {
    event("a", 1);
    EXPECT_THAT(event("a", 4), IsEmpty());
    EXPECT_THAT(asks_, ElementsAre("peer-a:e2-3"));
    EXPECT_THAT(range("peer-a", "e", 2, 3, {2, 3}), ElementsAre("e2", "e3", "e4"));
    EXPECT_FALSE(ingest_.deadline());
}

TEST_F(IngestTest, AHeadFindsALostTail) {
    event("a", 1);
    head("a", "e", 2);
    EXPECT_THAT(asks_, ElementsAre("peer-a:e2-2"));
}

TEST_F(IngestTest, WhatTheProducerHasNoMoreBecomesAGapBetweenItsNeighbours) {
    event("a", 1);
    event("a", 5);
    EXPECT_THAT(range("peer-a", "e", 2, 4, {2, 4}), ElementsAre("e2", "gap3-3", "e4", "e5"));
    EXPECT_EQ(1U, ingest_.counts().lost);
}

TEST_F(IngestTest, WhatWasSupersededIsNoGap) {
    value("a", 1);
    value("a", 5);
    EXPECT_THAT(range("peer-a", "v", 2, 4, {4}, {{2, 3}}), ElementsAre("v4", "v5"));
    EXPECT_EQ(0U, ingest_.counts().lost);
}

TEST_F(IngestTest, AProducerThatIsHeardAndNeverAnswersLosesItsEventsInABoundedNumberOfTries) {
    event("a", 1);
    event("a", 3);
    std::vector<std::string> delivered;
    for (int second = 0; second < 200 && delivered.empty(); ++second) {
        sync("a", "i", 1);
        delivered = run_timers_for(Seconds{1});
    }
    EXPECT_THAT(delivered, ElementsAre("gap2-2", "e3"));
    EXPECT_LE(6U * kGiveUpRounds, asks_.size());
    EXPECT_GE(6U * kGiveUpRounds + 200, asks_.size()) << "and one each time it is heard";
    EXPECT_THAT(event("a", 4), ElementsAre("e4"));
}

TEST_F(IngestTest, EventsAreNotGivenUpWhileTheirProducerIsNotHeard) {
    event("a", 1);
    sync("a", "i", 1);
    event("a", 3);
    EXPECT_THAT(run_timers_for(Seconds{600}), IsEmpty());
    EXPECT_LT(100U, asks_.size()) << "it goes on asking";
    EXPECT_GT(1000U, asks_.size()) << "and not all the time";
    EXPECT_THAT(range("peer-a", "e", 2, 2, {2}), ElementsAre("e2", "e3"));
}

TEST_F(IngestTest, AProducerThatIsHeardAgainIsAskedAtOnce) {
    event("a", 1);
    event("a", 3);
    run_timers_for(Seconds{60});
    asks_.clear();
    sync("a", "i", 1);
    run_timers_for(Millis{1});
    EXPECT_EQ(1U, asks_.size());
}

TEST_F(IngestTest, AReportThatIsMissingHoldsTheNextOneUpForOneRoundAlone) {
    report(1, 0);
    report(3, 0);
    EXPECT_THAT(run_timers_for(Seconds{10}), ElementsAre("r3"));
}

TEST_F(IngestTest, AValueIsNeverGivenUpSoThatNoReportVouchesForTheOneBefore) {
    value("a", 1);
    EXPECT_THAT(report(1, 2), IsEmpty());
    EXPECT_THAT(run_timers_for(Seconds{30}), IsEmpty());
    EXPECT_LT(6U, asks_.size()) << "it goes on asking";
    EXPECT_THAT(value("a", 2), ElementsAre("v2", "r1"));
}

TEST_F(IngestTest, OriginsDoNotSpoilOneAnother) {
    event("a", 1);
    EXPECT_THAT(event("b", 1), ElementsAre("e1"))
        << "the same topic and position is another stream";
    event("a", 3);
    EXPECT_THAT(range("peer-b", "e", 2, 2, {2}), IsEmpty())
        << "b may not say what a's stream holds";
    EXPECT_THAT(event("b", 2), ElementsAre("e2")) << "a's gap does not hold b up";
    EXPECT_THAT(range("peer-a", "e", 2, 2, {2}), ElementsAre("e2", "e3"));
}

TEST_F(IngestTest, AnUnknownOriginIsDroppedUntilItsHello) {
    EXPECT_THAT(event("c", 1), IsEmpty());
    EXPECT_TRUE(std::holds_alternative<protocol::Unknown>(sync("c", "i", 1)));
    EXPECT_TRUE(welcomed(hello("c", "i", 1)));
    EXPECT_THAT(event("c", 1), ElementsAre("e1"));
}

TEST_F(IngestTest, TheHigherEpochOwnsTheOriginAndTheOtherIsFenced) {
    event("a", 1);
    EXPECT_TRUE(welcomed(hello("a", "new", 2)));
    EXPECT_THAT(event("a", 2, 1), IsEmpty()) << "of the superseded instance";
    EXPECT_THAT(event("a", 1, 2), ElementsAre("e1")) << "a new epoch begins a new stream";
    const auto answer = sync("a", "i", 1);
    ASSERT_TRUE(std::holds_alternative<protocol::Conflict>(answer));
    EXPECT_EQ(2U, std::get<protocol::Conflict>(answer).floor);
}

TEST_F(IngestTest, AnotherInstanceOfTheSameEpochIsFenced) {
    EXPECT_TRUE(std::holds_alternative<protocol::Conflict>(sync("a", "other", 1)));
    EXPECT_TRUE(std::holds_alternative<protocol::Durable>(sync("a", "i", 1)));
}

TEST_F(IngestTest, AReportThatWaitsGoesWithItsInstance) {
    EXPECT_THAT(report(1, 1), IsEmpty());
    hello("a", "new", 2);
    EXPECT_THAT(send(made(Kind::kValue, "a", "v", 1, 2)), ElementsAre("v1"))
        << "the old one's report knows nothing of this value";
}

TEST_F(IngestTest, EventsOfAnInstanceThatHasEndedAreToldOrTheirGapIs) {
    event("a", 1);
    event("a", 4);  // 2 and 3 are missing, 5 and 6 were heard of.
    head("a", "e", 6);
    EXPECT_THAT(note({.deliver = hello("a", "j", 2).left, .send = {}, .beat = {}}),
                ElementsAre("gap2-3", "e4", "gap5-6"));
    EXPECT_THAT(event("a", 1, 2), ElementsAre("e1"));
}

TEST_F(IngestTest, WhatTheDiskRefusedOfAnInstanceThatHasEndedIsAGap) {
    event("a", 1);
    event("a", 2);
    ingest_.refused(ingest_.take_positions());
    EXPECT_THAT(note({.deliver = hello("a", "j", 2).left, .send = {}, .beat = {}}),
                ElementsAre("gap1-2"));
}

TEST_F(IngestTest, AHelloThatIsNotAboveTheOwnerIsAConflict) {
    hello("a", "i", 5);
    EXPECT_FALSE(welcomed(hello("a", "other", 5)));
    EXPECT_FALSE(welcomed(hello("a", "other", 4)));
    EXPECT_TRUE(welcomed(hello("a", "i", 5))) << "the owner may repeat itself";
    EXPECT_FALSE(hello("a", "i", 5).changed);
    EXPECT_TRUE(welcomed(hello("a", "other", 6)));
}

TEST_F(IngestTest, OnlyWhatIsCommittedIsAcknowledged) {
    event("a", 1);
    const auto positions = ingest_.take_positions();
    EXPECT_THAT(std::get<protocol::Durable>(sync("a", "i", 1)).streams, IsEmpty());
    const auto told = ingest_.acknowledge(positions);
    ASSERT_EQ(1U, told.size());
    EXPECT_EQ("peer-a", told[0].peer);
    EXPECT_EQ(1U, std::get<protocol::Durable>(told[0].message).streams.at(0).seq);
    EXPECT_FALSE(ingest_.has_positions());
}

TEST_F(IngestTest, EventsThatTheDiskRefusedAreAskedForAgain) {
    event("a", 1);
    value("a", 1);
    ingest_.refused(ingest_.take_positions());
    admit_ = Admit::kNoEvents;
    EXPECT_THAT(event("a", 2), IsEmpty());
    EXPECT_THAT(value("a", 2), ElementsAre("v2")) << "state goes on";
    EXPECT_THAT(asks_, IsEmpty());
    admit_ = Admit::kAll;
    head("a", "e", 2);
    EXPECT_THAT(asks_, ElementsAre("peer-a:e1-2"));
    EXPECT_THAT(range("peer-a", "e", 1, 2, {1, 2}), ElementsAre("e1", "e2"));
}

TEST_F(IngestTest, EventsAmongStateAreAskedForAgainToo) {
    send(made(Kind::kEvent, "a", "e", 1, 1));
    send(made(Kind::kValue, "a", "e", 2, 1));
    ingest_.refused(ingest_.take_positions());
    EXPECT_THAT(ingest_.take_positions(), IsEmpty()) << "nothing of it is to be acknowledged";
    admit_ = Admit::kNoEvents;
    EXPECT_THAT(send(made(Kind::kValue, "a", "e", 3, 1)), IsEmpty()) << "it waits behind the event";
    admit_ = Admit::kAll;
    head("a", "e", 3);
    EXPECT_THAT(asks_, ElementsAre("peer-a:e1-3"));
}

TEST_F(IngestTest, AReportWaitsForTheValuesThatItConfirms) {
    EXPECT_THAT(report(1, 2), IsEmpty());
    EXPECT_THAT(asks_, ElementsAre("peer-a:v1-2")) << "it is also news of what is missing";
    EXPECT_THAT(value("a", 1), ElementsAre("v1"));
    EXPECT_THAT(value("a", 2), ElementsAre("v2", "r1"));
}

/// Of a key the producer keeps the newest value alone. Position 1 has a newer one, which came after
/// the report that names 1, and is not here yet: the report would vouch for the value before both.
TEST_F(IngestTest, AReportFromBeforeANewerValueThatIsStillToComeWaitsForIt) {
    Message early = made(Kind::kReport, "a", "poll.p", 1, 1);
    Report confirms;
    confirms.poll = "p";
    confirms.after = {{"v", 1}};
    early.detail = confirms;
    EXPECT_THAT(send(early), IsEmpty());
    asks_.clear();
    EXPECT_THAT(range("peer-a", "v", 1, 1, {}, {{1, 1}}, 2), IsEmpty());
    EXPECT_THAT(asks_, ElementsAre("peer-a:v2-2")) << "the answer is news of the newer one";
    EXPECT_THAT(value("a", 2), ElementsAre("v2", "r1"));
}

TEST_F(IngestTest, AValueDoesNotVouchForKeysWhoseNewerValueIsStillToCome) {
    value("a", 1);
    EXPECT_TRUE(ingest_.vouches_for_all("a", "v", 1));
    value("a", 4);
    range("peer-a", "v", 2, 3, {3}, {{2, 2}}, 5);
    EXPECT_FALSE(ingest_.vouches_for_all("a", "v", 3)) << "2 was replaced by 4, or by 5";
    EXPECT_FALSE(ingest_.vouches_for_all("a", "v", 4));
    EXPECT_THAT(value("a", 5), ElementsAre("v5"));
    EXPECT_TRUE(ingest_.vouches_for_all("a", "v", 5));
}

TEST_F(IngestTest, OfTwoReportsThatWaitTheNewerIsKept) {
    value("a", 1);
    EXPECT_THAT(report(1, 2), IsEmpty());
    EXPECT_THAT(report(2, 2), IsEmpty());
    EXPECT_THAT(value("a", 2), ElementsAre("v2", "r2"));
}

TEST_F(IngestTest, ARestartGoesOnFromTheDurablePositions) {
    Ingest again{Random(1)};
    again.restore({{"a", 3, "i"}}, {{"a", "e", storage::StreamKind::kEvent, 9, 3, 7, 0, 0},
                                    {"a", "old", storage::StreamKind::kEvent, 9, 2, 7, 0, 0}});
    EXPECT_TRUE(std::holds_alternative<protocol::Durable>(again.on_sync("p", {"a", "i", 3})));
    EXPECT_THAT(note(again.on_message(made(Kind::kEvent, "a", "e", 7, 3), admit_, now_)),
                IsEmpty());
    EXPECT_THAT(note(again.on_message(made(Kind::kEvent, "a", "e", 8, 3), admit_, now_)),
                ElementsAre("e8"));
    EXPECT_THAT(note(again.on_message(made(Kind::kEvent, "a", "old", 1, 3), admit_, now_)),
                ElementsAre("e1"))
        << "a position of an earlier epoch says nothing";
}

TEST_F(IngestTest, OriginsAndStreamsAreBounded) {
    for (std::size_t i = 2; i < kOriginsMax; ++i) {
        hello("origin" + std::to_string(i), "i", 1);
    }
    EXPECT_FALSE(ingest_.on_hello("p", {"one-too-many", "i", 1, true, {}}, now_));
    for (std::size_t i = 0; i < kStreamsMax + 10; ++i) {
        send(made(Kind::kEvent, "a", "t" + std::to_string(i), 1, 1));
    }
    EXPECT_EQ(10U, ingest_.counts().dropped);
}

}  // namespace
}  // namespace sigmacast::broker
