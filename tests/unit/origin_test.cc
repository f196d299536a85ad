// The producer's side of the stream against a scripted broker, in virtual time.
#include "common/origin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sigmacast {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class OriginTest : public testing::Test, protected Origin::Io {
 protected:
    void publish(Message message) override { published_.push_back(std::move(message)); }
    void send(protocol::Any message) override { sent_.push_back(std::move(message)); }
    Result<> save_epoch(std::uint64_t epoch) override {
        if (disk_is_full_) {
            return Error{Errc::kFull, "no room"};
        }
        saved_ = epoch;
        return {};
    }

    void start() { origin_.start(now_); }
    void join(std::vector<Mark> durable = {}) {
        start();
        receive(protocol::Welcome{origin_.epoch(), std::move(durable), {}});
    }
    std::optional<std::vector<protocol::LiveKey>> receive(const protocol::Any& message) {
        return origin_.on_protocol(message, now_);
    }
    void beat() {
        now_.mono = origin_.deadline();
        origin_.on_timer(now_);
    }
    std::optional<std::uint64_t> push(Kind kind, const std::string& topic,
                                      const std::string& key = "", std::size_t bytes = 1) {
        Message message;
        message.kind = kind;
        message.topic = topic;
        message.key = key;
        message.data = std::make_shared<const std::string>(bytes, 'x');
        return origin_.push(std::move(message), now_);
    }
    void forget() {
        published_.clear();
        sent_.clear();
    }
    /// What was sent since, of one type.
    template <class T>
    std::vector<T> sent() const {
        std::vector<T> found;
        for (const protocol::Any& message : sent_) {
            if (const T* one = std::get_if<T>(&message)) {
                found.push_back(*one);
            }
        }
        return found;
    }
    /// What was published since, as "topic:seq/epoch"; a head as "head topic:seq ...".
    std::vector<std::string> published() const {
        std::vector<std::string> lines;
        for (const Message& message : published_) {
            EXPECT_EQ("nas", message.origin);
            std::string line = message.topic;
            if (message.kind == Kind::kHead) {
                for (const StreamHead& head : message.head().streams) {
                    line += " " + head.topic + ":" + std::to_string(head.seq);
                }
            } else {
                line += ":" + std::to_string(message.seq);
            }
            lines.push_back(line + "/" + message.epoch);
        }
        return lines;
    }

    static OriginOptions options() {
        OriginOptions options;
        options.name = "nas";
        options.instance = "i";
        options.epoch = 5;
        options.polls = {{"p", "t", Seconds{5}, Seconds{3}}};
        options.limits.bytes_max = 10'000;
        return options;
    }

    Now now_{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    std::vector<Message> published_;
    std::vector<protocol::Any> sent_;
    std::uint64_t saved_ = 0;
    bool disk_is_full_ = false;
    Origin origin_{options(), *this};
};

TEST_F(OriginTest, TheFirstHelloSaysWhoItIsAndWhatItPolls) {
    start();
    const auto hellos = sent<protocol::Hello>();
    ASSERT_THAT(hellos, SizeIs(1));
    EXPECT_EQ("nas", hellos[0].origin);
    EXPECT_EQ("i", hellos[0].instance);
    EXPECT_EQ(5U, hellos[0].epoch);
    EXPECT_TRUE(hellos[0].first);
    ASSERT_THAT(hellos[0].polls, SizeIs(1));
    EXPECT_EQ("p", hellos[0].polls[0].name);
}

TEST_F(OriginTest, HelloIsRepeatedEachSecondUntilABrokerWelcomesAndThenItSyncs) {
    start();
    beat();
    beat();
    EXPECT_THAT(sent<protocol::Hello>(), SizeIs(3));
    EXPECT_THAT(sent<protocol::Sync>(), IsEmpty());
    receive(protocol::Welcome{5, {}, {}});
    EXPECT_EQ(Origin::State::kJoined, origin_.state());
    forget();
    beat();
    EXPECT_THAT(sent<protocol::Hello>(), IsEmpty());
    ASSERT_THAT(sent<protocol::Sync>(), SizeIs(1));
    EXPECT_EQ(5U, sent<protocol::Sync>()[0].epoch);
    EXPECT_EQ("i", sent<protocol::Sync>()[0].instance);
}

TEST_F(OriginTest, NothingIsDueBeforeASecondAndAfterALongSleepOneBeatIsEnough) {
    join();
    forget();
    now_.mono += Millis{999};
    origin_.on_timer(now_);
    EXPECT_THAT(sent_, IsEmpty());
    now_.mono += Seconds{3600};
    origin_.on_timer(now_);
    origin_.on_timer(now_);
    EXPECT_THAT(sent<protocol::Sync>(), SizeIs(2)) << "and not 3600";
    origin_.on_timer(now_);
    EXPECT_THAT(sent<protocol::Sync>(), SizeIs(2));
}

TEST_F(OriginTest, PositionsAreContiguousInEachStreamAndTheHeadNamesTheNewest) {
    join();
    forget();
    EXPECT_EQ(1U, push(Kind::kValue, "a"));
    EXPECT_EQ(2U, push(Kind::kValue, "a"));
    EXPECT_EQ(1U, push(Kind::kEvent, "b"));
    origin_.send_head(now_);
    EXPECT_THAT(published(), ElementsAre("a:1/5", "a:2/5", "b:1/5", "head a:2 b:1/5"));
    EXPECT_EQ(now_.wall, published_[0].at);
}

TEST_F(OriginTest, WhatIsPushedBeforeAWelcomeGoesOutAndTheWelcomeIsAnsweredByAHeadThatNamesIt) {
    start();
    push(Kind::kValue, "a");
    forget();
    receive(protocol::Welcome{5, {}, {}});
    EXPECT_THAT(published(), ElementsAre("head a:1/5"));
}

TEST_F(OriginTest, AWelcomeReturnsTheLiveKeysEachTime) {
    start();
    const protocol::Welcome welcome{5, {}, {{"t", "p", "job", nullptr}}};
    ASSERT_TRUE(receive(welcome));
    EXPECT_THAT(*receive(welcome), SizeIs(1));
}

TEST_F(OriginTest, AnAnswerToAHelloFromBeforeTheEpochWasRaisedIsIgnored) {
    start();
    receive(protocol::Conflict{9});
    EXPECT_FALSE(receive(protocol::Welcome{5, {}, {{"t", "p", "job", nullptr}}}));
    EXPECT_EQ(Origin::State::kJoining, origin_.state());
    receive(protocol::Conflict{9});
    EXPECT_EQ(Origin::State::kJoining, origin_.state()) << "a repetition of the first answer";
    EXPECT_EQ(10U, origin_.epoch());
}

TEST_F(OriginTest, AFloorAboveItsEpochIsPassedOnceAndSavedBeforeItIsUsed) {
    start();
    push(Kind::kValue, "a");
    forget();
    receive(protocol::Conflict{9});
    EXPECT_EQ(10U, saved_);
    EXPECT_EQ(10U, origin_.epoch());
    ASSERT_THAT(sent<protocol::Hello>(), SizeIs(1));
    EXPECT_EQ(10U, sent<protocol::Hello>()[0].epoch);
    EXPECT_FALSE(sent<protocol::Hello>()[0].first) << "it is raised only once";
    EXPECT_THAT(published(), ElementsAre("head a:1/10"));
}

TEST_F(OriginTest, AnEpochThatCannotBeSavedIsNotUsed) {
    start();
    disk_is_full_ = true;
    forget();
    receive(protocol::Conflict{9});
    EXPECT_EQ(5U, origin_.epoch());
    EXPECT_EQ(Origin::State::kConflict, origin_.state());
    EXPECT_THAT(sent_, IsEmpty());
}

TEST_F(OriginTest, ASecondConflictFencesItAndNothingGoesOutAnyMore) {
    join();
    push(Kind::kEvent, "e");
    receive(protocol::Conflict{6});
    EXPECT_EQ(Origin::State::kConflict, origin_.state());
    EXPECT_EQ(0U, saved_) << "its first hello was answered; it must not fight for the name";
    forget();
    EXPECT_FALSE(push(Kind::kValue, "a"));
    beat();
    origin_.send_head(now_);
    receive(protocol::Ask{1, "nas", "e", {1, 1}});
    receive(protocol::Unknown{});
    EXPECT_FALSE(receive(protocol::Welcome{5, {}, {}}));
    EXPECT_EQ(Origin::State::kConflict, origin_.state());
    EXPECT_THAT(published_, IsEmpty());
    EXPECT_THAT(sent_, IsEmpty());
}

TEST_F(OriginTest, ABrokerThatDoesNotKnowItIsGreetedAtOnceAndOnlyOnce) {
    join();
    forget();
    receive(protocol::Unknown{});
    receive(protocol::Unknown{});
    ASSERT_THAT(sent<protocol::Hello>(), SizeIs(1));
    EXPECT_FALSE(sent<protocol::Hello>()[0].first);
    EXPECT_EQ(Origin::State::kJoining, origin_.state());
}

TEST_F(OriginTest, WhatWasDurableIsCountedPerStreamAndNeverGoesBack) {
    join();
    push(Kind::kEvent, "e");
    push(Kind::kEvent, "e");
    push(Kind::kValue, "v");
    EXPECT_EQ(3U, origin_.undurable());
    receive(protocol::Durable{5, {{"e", 2}, {"v", 1}}});
    receive(protocol::Durable{5, {{"e", 1}}});
    EXPECT_EQ(0U, origin_.undurable());
    EXPECT_EQ(2U, origin_.durable("e"));
}

TEST_F(OriginTest, DurablePositionsOfAnotherEpochOrBeyondTheNewestAreNotBelieved) {
    join();
    push(Kind::kEvent, "e");
    receive(protocol::Durable{4, {{"e", 1}}});
    EXPECT_EQ(0U, origin_.durable("e"));
    receive(protocol::Durable{5, {{"e", 99}, {"foreign", 3}}});
    EXPECT_EQ(1U, origin_.durable("e"));
    EXPECT_EQ(0U, origin_.durable("foreign"));
    push(Kind::kEvent, "e");
    EXPECT_EQ(1U, origin_.undurable()) << "the second event is not durable because of the 99";
}

TEST_F(OriginTest, AnEventThatFindsTheRingFullWaitsForDurableAndTakesNoPosition) {
    join();
    EXPECT_EQ(1U, push(Kind::kEvent, "e", "", 6'000));
    EXPECT_FALSE(push(Kind::kEvent, "e", "", 6'000));
    EXPECT_EQ(1U, push(Kind::kValue, "v")) << "state goes on";
    receive(protocol::Durable{5, {{"e", 1}}});
    EXPECT_EQ(2U, push(Kind::kEvent, "e", "", 6'000));
}

TEST_F(OriginTest, AnEventThatIsGivenUpTakesAPositionThatTheHeadNamesAndNoAnswerHolds) {
    join();
    push(Kind::kEvent, "e");
    EXPECT_EQ(2U, origin_.lose("e"));
    forget();
    origin_.send_head(now_);
    EXPECT_THAT(published(), ElementsAre("head e:2/5"));
    receive(protocol::Ask{1, "nas", "e", {1, 2}});
    const auto answer = sent<protocol::Range>().at(0);
    EXPECT_EQ((sequence::Range{1, 2}), answer.range);
    EXPECT_THAT(answer.items, SizeIs(1));
    EXPECT_THAT(answer.superseded, IsEmpty());
}

TEST_F(OriginTest, ARangeHoldsTheNewestOfEachKeyAndNamesWhatItSuperseded) {
    join();
    push(Kind::kValue, "v", "a");
    push(Kind::kValue, "v", "a");
    push(Kind::kValue, "v", "b");
    forget();
    receive(protocol::Ask{17, "nas", "v", {1, 9}});
    const auto answer = sent<protocol::Range>().at(0);
    EXPECT_EQ(17U, answer.id);
    EXPECT_EQ("5", answer.epoch);
    EXPECT_EQ((sequence::Range{1, 3}), answer.range) << "no further than what was pushed";
    ASSERT_THAT(answer.items, SizeIs(2));
    EXPECT_EQ(2U, answer.items[0].seq);
    EXPECT_THAT(answer.superseded, ElementsAre(sequence::Range{1, 1}));
    EXPECT_EQ(1U, origin_.asks_answered());
}

TEST_F(OriginTest, WhatIsAskedForAgainCarriesTheRaisedEpoch) {
    start();
    push(Kind::kEvent, "e");
    receive(protocol::Conflict{9});
    forget();
    receive(protocol::Ask{1, "nas", "e", {1, 1}});
    const auto answer = sent<protocol::Range>().at(0);
    EXPECT_EQ("10", answer.epoch);
    EXPECT_EQ("10", answer.items.at(0).epoch);
}

TEST_F(OriginTest, AFinalValueIsKeptForALogThatComesBackOlderAndNotForOneWithoutItsStream) {
    join();
    Message last;
    last.kind = Kind::kValue;
    last.topic = "v";
    last.key = "job";
    last.final = true;
    origin_.push(last, now_);
    EXPECT_GT(origin_.ring_bytes(), 0U);
    receive(protocol::Durable{5, {{"v", 1}}});
    EXPECT_GT(origin_.ring_bytes(), 0U);
    receive(protocol::Welcome{5, {{"v", 1}}, {}});
    EXPECT_GT(origin_.ring_bytes(), 0U);
    receive(protocol::Welcome{5, {}, {}});
    EXPECT_EQ(0U, origin_.ring_bytes());
}

}  // namespace
}  // namespace sigmacast
