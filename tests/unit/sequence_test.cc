// The sequenced stream: each rule by itself, then sender and receiver over a channel that does
// everything wrong.
#include "common/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace sigmacast::sequence {

void PrintTo(const Range& range, std::ostream* os) {
    *os << range.from << ".." << range.to;
}

namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Seqs = std::vector<std::uint64_t>;

constexpr Mono at(std::int64_t ms) {
    return Mono{Millis{ms}};
}

/// A receiver of strings, and what it has said so far.
class ReceiverTest : public testing::Test {
 protected:
    using Actions = Receiver<std::string>::Actions;

    void item(std::uint64_t seq) {
        take(receiver_.on_item(seq, "v" + std::to_string(seq), now_, random_));
    }
    void head(std::uint64_t seq) { take(receiver_.on_head(seq, now_, random_)); }
    void reply(Range range, const Seqs& items, std::vector<Range> superseded = {}) {
        RangeReply<std::string> reply{
            .range = range, .items = {}, .superseded = std::move(superseded)};
        for (const std::uint64_t seq : items) {
            reply.items.push_back({seq, "v" + std::to_string(seq)});
        }
        take(receiver_.on_range(std::move(reply), now_, random_));
    }
    void skip(std::uint64_t seq) { take(receiver_.skip(seq)); }
    /// Goes to the receiver's deadline.
    void wait() {
        ASSERT_TRUE(receiver_.deadline());
        now_ = *receiver_.deadline();
        take(receiver_.on_timer(now_, random_));
    }
    void limits(ReceiverLimits limits) { receiver_ = Receiver<std::string>(1, limits); }

    Receiver<std::string> receiver_{1};
    Mono now_ = at(1000);
    Random random_{1};
    Seqs delivered_;
    std::vector<Range> lost_;
    std::vector<Range> asked_;
    int fallen_back_ = 0;

 private:
    void take(Actions actions) {
        for (const auto& one : actions.deliver) {
            EXPECT_EQ(one.value, "v" + std::to_string(one.seq));
            delivered_.push_back(one.seq);
        }
        lost_.insert(lost_.end(), actions.lost.begin(), actions.lost.end());
        if (actions.ask) {
            asked_.push_back(*actions.ask);
        }
        fallen_back_ += actions.fall_back ? 1 : 0;
    }
};

TEST_F(ReceiverTest, DeliversWhatComesInOrderAtOnce) {
    item(1);
    item(2);
    EXPECT_THAT(delivered_, ElementsAre(1, 2));
    EXPECT_THAT(asked_, IsEmpty());
    EXPECT_TRUE(receiver_.complete());
    EXPECT_FALSE(receiver_.deadline());
}

TEST_F(ReceiverTest, StartsWhereItIsTold) {
    receiver_ = Receiver<std::string>(41);
    item(40);
    item(41);
    EXPECT_THAT(delivered_, ElementsAre(41));
    EXPECT_EQ(receiver_.delivered(), 41u);
}

TEST_F(ReceiverTest, DropsDuplicatesBeforeAndBehindAGap) {
    item(1);
    item(1);
    item(3);
    item(3);
    item(2);
    item(3);
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3));
}

TEST_F(ReceiverTest, FindsAGapByALaterItem) {
    item(1);
    item(4);
    EXPECT_THAT(asked_, ElementsAre(Range{2, 3}));
    EXPECT_EQ(receiver_.gap_end(), 3u);
    reply({2, 3}, {2, 3});
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3, 4));
    EXPECT_THAT(lost_, IsEmpty());
    EXPECT_FALSE(receiver_.deadline());
}

TEST_F(ReceiverTest, FindsAGapByAHead) {
    item(1);
    head(3);
    EXPECT_THAT(asked_, ElementsAre(Range{2, 3}));
    EXPECT_FALSE(receiver_.complete());
    reply({2, 3}, {2, 3});
    EXPECT_TRUE(receiver_.complete());
}

TEST_F(ReceiverTest, AsksOnceUntilTheAnswerIsOverdue) {
    item(2);
    item(3);
    head(3);
    item(4);
    EXPECT_THAT(asked_, ElementsAre(Range{1, 1}));
    wait();
    EXPECT_THAT(asked_, ElementsAre(Range{1, 1}, Range{1, 1}));
}

TEST_F(ReceiverTest, CountsSupersededPositionsAsReceived) {
    item(6);
    reply({1, 5}, {2, 5}, {{1, 1}, {3, 4}});
    EXPECT_THAT(delivered_, ElementsAre(2, 5, 6));
    EXPECT_THAT(lost_, IsEmpty());
}

TEST_F(ReceiverTest, TakesSupersededRangesInAnyOrder) {
    item(9);
    reply({1, 8}, {5}, {{7, 8}, {2, 4}, {1, 3}});
    EXPECT_THAT(delivered_, ElementsAre(5, 9));
    EXPECT_THAT(lost_, ElementsAre(Range{6, 6}));
}

TEST_F(ReceiverTest, ReportsWhatIsInNeitherAsLost) {
    item(6);
    reply({1, 5}, {3});
    EXPECT_THAT(delivered_, ElementsAre(3, 6));
    EXPECT_THAT(lost_, ElementsAre(Range{1, 2}, Range{4, 5}));
    EXPECT_TRUE(receiver_.complete());
}

TEST_F(ReceiverTest, DoesNotReportAHeldItemAsLost) {
    item(3);
    item(5);
    reply({1, 4}, {});
    EXPECT_THAT(delivered_, ElementsAre(3, 5));
    EXPECT_THAT(lost_, ElementsAre(Range{1, 2}, Range{4, 4}));
}

TEST_F(ReceiverTest, AsksForTheRestOfATruncatedReplyAtOnce) {
    head(10);
    reply({1, 4}, {1, 2, 3, 4});
    EXPECT_THAT(asked_, ElementsAre(Range{1, 10}, Range{5, 10}));
    EXPECT_THAT(lost_, IsEmpty());
}

TEST_F(ReceiverTest, AsksForNoMoreThanItsBoundAtOnce) {
    limits({.ask_max = 4});
    head(10);
    reply({1, 4}, {1, 2, 3, 4});
    reply({5, 8}, {5, 6, 7, 8});
    EXPECT_THAT(asked_, ElementsAre(Range{1, 4}, Range{5, 8}, Range{9, 10}));
}

TEST_F(ReceiverTest, HoldsNoMoreThanItsBoundAndAsksForTheRestAgain) {
    limits({.hold_back_max = 2});
    item(2);
    item(3);
    item(4);
    item(1);
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3));
    EXPECT_EQ(receiver_.known(), 4u);
    wait();
    EXPECT_EQ(asked_.back(), (Range{4, 4}));
}

TEST_F(ReceiverTest, TakesTheNextItemEvenWhenTheHoldBackIsFull) {
    limits({.hold_back_max = 1});
    item(2);
    item(1);
    EXPECT_THAT(delivered_, ElementsAre(1, 2));
}

TEST_F(ReceiverTest, FallsBackAfterItsTriesAndThenTriesAgain) {
    limits({.tries_max = 3});
    item(2);
    wait();
    wait();
    EXPECT_EQ(asked_.size(), 3u);
    EXPECT_EQ(fallen_back_, 0);
    wait();
    EXPECT_EQ(fallen_back_, 1);
    EXPECT_EQ(asked_.size(), 3u);
    wait();
    EXPECT_EQ(asked_.size(), 4u);
}

TEST_F(ReceiverTest, WaitsLongerWithEachTry) {
    item(2);
    std::vector<Millis> waits;
    for (int i = 0; i < 5; ++i) {
        const Mono before = now_;
        waits.push_back(elapsed(before, *receiver_.deadline()));
        wait();
    }
    Millis least{50};
    for (const Millis one : waits) {
        EXPECT_GE(one, least);
        EXPECT_LE(one, 2 * least);
        least *= 2;
    }
}

TEST_F(ReceiverTest, AnEmptyReplyIsNoLossAndNoReasonToAskAtOnce) {
    limits({.tries_max = 3});
    head(5);
    for (int i = 0; i < 100; ++i) {
        reply({1, 0}, {});
    }
    EXPECT_EQ(asked_.size(), 1u);
    EXPECT_THAT(lost_, IsEmpty());
    for (int i = 0; i < 3; ++i) {
        wait();
        reply({1, 0}, {});
    }
    EXPECT_EQ(asked_.size(), 3u);
    EXPECT_EQ(fallen_back_, 1);
}

TEST_F(ReceiverTest, AReplyThatStartsAfterTheGapFillsNothingAndLosesNothing) {
    head(9);
    reply({5, 9}, {5, 9}, {{6, 8}});
    EXPECT_THAT(delivered_, IsEmpty());
    EXPECT_THAT(lost_, IsEmpty());
    EXPECT_EQ(asked_.size(), 1u);
    reply({1, 9}, {1, 2, 3, 4}, {{6, 8}});
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3, 4, 5, 9));
    EXPECT_THAT(lost_, IsEmpty());
}

TEST_F(ReceiverTest, AReplyThatStartsAfterTheGapKeepsToTheHoldBack) {
    limits({.hold_back_max = 2});
    head(9);
    reply({3, 9}, {3, 4, 5, 6, 7, 8, 9});
    reply({1, 2}, {1, 2});
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3, 4));
}

TEST_F(ReceiverTest, OfWhatIsOutsideOfItsRangeAReplySaysNothing) {
    head(4);
    reply({5, 9}, {1, 3});
    reply({2, ~std::uint64_t{0}}, {1, 2});
    item(1);
    item(2);
    item(4);
    EXPECT_THAT(delivered_, ElementsAre(1, 2));
    EXPECT_EQ(receiver_.missing(), (Range{3, 3}));
    reply({3, 4}, {1, 3});
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3, 4));
    EXPECT_THAT(lost_, IsEmpty());
    EXPECT_TRUE(receiver_.complete());
}

TEST_F(ReceiverTest, ALateDuplicateOfAReplyDoesNotMultiplyRequests) {
    limits({.ask_max = 2});
    head(6);
    reply({1, 2}, {1, 2});
    EXPECT_EQ(asked_.size(), 2u);
    reply({1, 2}, {1, 2});
    reply({1, 2}, {1, 2});
    EXPECT_EQ(asked_.size(), 2u);
    EXPECT_THAT(delivered_, ElementsAre(1, 2));
}

TEST_F(ReceiverTest, BelievesNothingBeyondWhatIsKnown) {
    item(3);
    reply({1, 1'000'000}, {1, 2});
    EXPECT_THAT(delivered_, ElementsAre(1, 2, 3));
    EXPECT_THAT(lost_, IsEmpty());
    item(4);
    EXPECT_EQ(delivered_.back(), 4u);
}

TEST_F(ReceiverTest, SurvivesPositionsThatAreNonsense) {
    constexpr std::uint64_t kHuge = ~std::uint64_t{0};
    item(2);
    item(kHuge);
    head(kHuge);
    EXPECT_EQ(receiver_.known(), 2u);
    reply({0, kHuge}, {kHuge, 0}, {{0, kHuge}});
    reply({1, 1}, {kHuge}, {{kHuge, 0}, {9, 5}});
    EXPECT_THAT(delivered_, ElementsAre(2));
    EXPECT_THAT(lost_, ElementsAre(Range{1, 1}));
    item(3);
    EXPECT_THAT(delivered_, ElementsAre(2, 3));
}

TEST_F(ReceiverTest, SkipGoesOnAfterASnapshot) {
    item(5);
    item(8);
    skip(6);
    EXPECT_THAT(delivered_, IsEmpty());
    skip(7);
    EXPECT_THAT(delivered_, ElementsAre(8));
    item(7);
    item(9);
    EXPECT_THAT(delivered_, ElementsAre(8, 9));
    skip(3);
    EXPECT_EQ(receiver_.delivered(), 9u);
}

TEST_F(ReceiverTest, SkipLetsAGapBeyondTheSnapshotBeAskedForAtOnce) {
    item(9);
    EXPECT_THAT(asked_, ElementsAre(Range{1, 8}));
    skip(4);
    head(9);
    EXPECT_THAT(asked_, ElementsAre(Range{1, 8}, Range{5, 8}));
}

/// A sender of strings that weigh ten bytes each.
class SenderTest : public testing::Test {
 protected:
    std::optional<std::uint64_t> event(const std::string& topic = "e") {
        return sender_.push(topic, "", true, "event", 10, now_);
    }
    std::uint64_t state(const std::string& key, const std::string& value = "state") {
        return sender_.push("s", key, false, value, 10, now_).value();
    }
    Seqs items(const std::string& topic, Range asked) {
        Seqs seqs;
        for (const auto& one : sender_.answer(topic, asked).items) {
            seqs.push_back(one.seq);
        }
        return seqs;
    }

    Mono now_ = at(1000);
    Sender<std::string> sender_;
};

TEST_F(SenderTest, StampsEachStreamFromOne) {
    EXPECT_EQ(sender_.next("e"), 1u);
    EXPECT_EQ(event("e"), 1u);
    EXPECT_EQ(event("f"), 1u);
    EXPECT_EQ(event("e"), 2u);
    EXPECT_EQ(sender_.next("e"), 3u);
    EXPECT_THAT(sender_.heads(), ElementsAre(std::pair<std::string, std::uint64_t>("e", 2),
                                             std::pair<std::string, std::uint64_t>("f", 1)));
    EXPECT_EQ(sender_.undurable(), 3u);
}

TEST_F(SenderTest, KeepsTheNewestValueOfEachKeyAndNamesWhatItSuperseded) {
    state("a");
    state("b");
    state("a");
    state("a", "newest");
    const auto reply = sender_.answer("s", {1, 4});
    ASSERT_EQ(reply.items.size(), 2u);
    EXPECT_EQ(reply.items[0].seq, 2u);
    EXPECT_EQ(reply.items[1].seq, 4u);
    EXPECT_EQ(reply.items[1].value, "newest");
    EXPECT_THAT(reply.superseded, ElementsAre(Range{1, 1}, Range{3, 3}));
    EXPECT_EQ(sender_.bytes(), 20u);
}

TEST_F(SenderTest, KeepsEventsUntilTheyAreDurable) {
    sender_ = Sender<std::string>({.events_max = 2, .age_min = Millis{0}});
    for (int i = 0; i < 5; ++i) {
        event();
    }
    EXPECT_THAT(items("e", {1, 5}), ElementsAre(1, 2, 3, 4, 5));
    sender_.durable("e", 4, now_);
    EXPECT_THAT(items("e", {1, 5}), ElementsAre(4, 5));
    EXPECT_EQ(sender_.undurable(), 1u);
}

TEST_F(SenderTest, KeepsYoungEventsBeyondTheCount) {
    sender_ = Sender<std::string>({.events_max = 1, .age_min = Millis{100}});
    event();
    event();
    sender_.durable("e", 2, now_);
    EXPECT_THAT(items("e", {1, 2}), ElementsAre(1, 2));
    sender_.durable("e", 2, now_ + Millis{100});
    EXPECT_THAT(items("e", {1, 2}), ElementsAre(2));
}

TEST_F(SenderTest, AFullRingRefusesAnEventUntilOneIsDurable) {
    sender_ = Sender<std::string>({.bytes_max = 30});
    event();
    event();
    event();
    EXPECT_EQ(event(), std::nullopt);
    EXPECT_EQ(sender_.next("e"), 4u);
    sender_.durable("e", 1, now_);
    EXPECT_EQ(event(), 4u);
    EXPECT_EQ(sender_.bytes(), 30u);
    EXPECT_THAT(items("e", {1, 4}), ElementsAre(2, 3, 4));
}

TEST_F(SenderTest, StateAmongEventsKeepsNoDurableEventInTheRing) {
    sender_ = Sender<std::string>({.events_max = 2, .age_min = Millis{0}, .bytes_max = 40});
    ASSERT_TRUE(sender_.push("e", "a", false, "state", 10, now_));
    for (int i = 0; i < 10; ++i) {
        const auto seq = event();
        ASSERT_TRUE(seq) << "a full ring, and nothing in it is needed any more";
        sender_.durable("e", *seq, now_);
    }
    EXPECT_THAT(items("e", {1, 11}), ElementsAre(1, 10, 11));
}

TEST_F(SenderTest, AFullRingStillTakesState) {
    sender_ = Sender<std::string>({.bytes_max = 20});
    event();
    event();
    EXPECT_EQ(state("a"), 1u);
    EXPECT_EQ(state("a"), 2u);
    EXPECT_EQ(sender_.bytes(), 30u);
}

TEST_F(SenderTest, ADeclaredGapIsLostOnTheOtherSide) {
    event();
    EXPECT_EQ(sender_.lose("e"), 2u);
    event();
    const auto reply = sender_.answer("e", {1, 3});
    Receiver<std::string> receiver(1);
    Random random(1);
    receiver.on_head(3, now_, random);
    const auto actions = receiver.on_range(reply, now_, random);
    EXPECT_THAT(actions.lost, ElementsAre(Range{2, 2}));
    EXPECT_EQ(actions.deliver.size(), 2u);
}

TEST_F(SenderTest, ALongReplyIsCutAndSaysWhere) {
    sender_ = Sender<std::string>({.reply_items_max = 2});
    for (int i = 0; i < 5; ++i) {
        event();
    }
    const auto reply = sender_.answer("e", {2, 5});
    EXPECT_EQ(reply.range, (Range{2, 3}));
    EXPECT_EQ(reply.items.size(), 2u);
}

TEST_F(SenderTest, AHeavyReplyIsCutButHasOneItemAtLeast) {
    sender_ = Sender<std::string>({.reply_bytes_max = 25});
    event();
    event();
    event();
    EXPECT_EQ(sender_.answer("e", {1, 3}).range, (Range{1, 2}));
    sender_ = Sender<std::string>({.reply_bytes_max = 5});
    event();
    event();
    EXPECT_EQ(sender_.answer("e", {1, 2}).range, (Range{1, 1}));
}

TEST_F(SenderTest, ACutReplyNamesWhatIsSupersededUpToItsEnd) {
    sender_ = Sender<std::string>({.reply_items_max = 1});
    state("a");
    state("b");
    state("b");
    state("a");
    const auto reply = sender_.answer("s", {1, 4});
    EXPECT_EQ(reply.range, (Range{1, 3}));
    EXPECT_THAT(items("s", {1, 4}), ElementsAre(3));
    EXPECT_THAT(reply.superseded, ElementsAre(Range{1, 2}));
}

TEST_F(SenderTest, AnswersNothingAboutWhatItHasNotPushed) {
    event();
    EXPECT_EQ(sender_.answer("e", {1, 9}).range, (Range{1, 1}));
    EXPECT_EQ(sender_.answer("e", {5, 9}).range.to, 1u);
    EXPECT_EQ(sender_.answer("none", {1, 9}).range, (Range{1, 0}));
    EXPECT_EQ(sender_.answer("none", {0, 9}).range, (Range{1, 0}));
}

TEST_F(SenderTest, AnEndedKeyIsKeptUntilItIsDurable) {
    sender_ = Sender<std::string>({.ends_kept = 0});
    state("a");
    state("b");
    sender_.end("s", "b");
    EXPECT_THAT(items("s", {1, 2}), ElementsAre(1, 2));
    sender_.durable("s", 2, now_);
    EXPECT_THAT(items("s", {1, 2}), ElementsAre(1));
    EXPECT_EQ(sender_.bytes(), 10u);
    const auto reply = sender_.answer("s", {1, 2});
    EXPECT_THAT(reply.superseded, ElementsAre(Range{2, 2}));
}

TEST_F(SenderTest, WhenTheLastKeyHasEndedWhatIsGoneStillCountsAsSuperseded) {
    sender_ = Sender<std::string>({.ends_kept = 0});
    state("a");
    sender_.end("s", "a");
    sender_.durable("s", 1, now_);
    const auto reply = sender_.answer("s", {1, 1});
    EXPECT_THAT(reply.items, IsEmpty());
    EXPECT_THAT(reply.superseded, ElementsAre(Range{1, 1}));
}

TEST_F(SenderTest, AKeyThatComesBackAfterItsEndKeepsItsLastValueToo) {
    sender_ = Sender<std::string>({.ends_kept = 0});
    state("a");
    sender_.end("s", "a");
    state("a");
    EXPECT_THAT(items("s", {1, 2}), ElementsAre(1, 2));
    sender_.durable("s", 2, now_);
    EXPECT_THAT(items("s", {1, 2}), ElementsAre(2));
}

TEST_F(SenderTest, SomeDurableEndsStayForALogThatComesBackOlder) {
    sender_ = Sender<std::string>({.bytes_max = 50, .ends_kept = 2});
    for (const char* key : {"a", "b", "c"}) {
        state(key);
        sender_.end("s", key);
    }
    state("d");
    sender_.durable("s", 4, now_);
    EXPECT_THAT(items("s", {1, 4}), ElementsAre(2, 3, 4));
    event();
    event();
    event();
    EXPECT_THAT(items("s", {1, 4}), ElementsAre(4)) << "room for others comes first";
}

TEST_F(SenderTest, ALogThatHasNothingOfAStreamNeedsNoneOfItsEnds) {
    sender_ = Sender<std::string>({.ends_kept = 2});
    state("a");
    sender_.end("s", "a");
    state("b");
    sender_.durable("s", 2, now_);
    sender_.forget_ends("s");
    EXPECT_THAT(items("s", {1, 2}), ElementsAre(2));
}

TEST_F(SenderTest, OnlySoManyEndedKeysWaitToBeDurable) {
    sender_ = Sender<std::string>({.events_max = 2});
    for (const char* key : {"a", "b", "c"}) {
        state(key);
        sender_.end("s", key);
    }
    EXPECT_THAT(items("s", {1, 3}), ElementsAre(2, 3));
}

// ---- Sender and receiver over a channel that loses, repeats, delays and reorders ----

/// What is under way, by the time at which it arrives.
template <class T>
class Channel {
 public:
    Channel(Random& random, int loss_percent) : random_(random), loss_percent_(loss_percent) {}
    void send(Mono now, const T& what) {
        for (int copies = random_.between(0, 9) == 0 ? 2 : 1; copies > 0; --copies) {
            if (random_.between(0, 99) >= static_cast<std::uint64_t>(loss_percent_)) {
                under_way_.emplace(now + random_.upto(Millis{random_.between(0, 9) == 0 ? 400 : 5}),
                                   what);
            }
        }
    }
    std::vector<T> arrived(Mono now) {
        std::vector<T> all;
        const auto end = under_way_.upper_bound(now);
        for (auto it = under_way_.begin(); it != end; ++it) {
            all.push_back(it->second);
        }
        under_way_.erase(under_way_.begin(), end);
        return all;
    }

 private:
    Random& random_;
    int loss_percent_;
    std::multimap<Mono, T> under_way_;
};

struct Value {
    std::string key;
    std::uint64_t number = 0;
};

/// One topic from a sender to a receiver, a millisecond a step.
class Link {
 public:
    Link(std::uint64_t seed, bool events)
        : events_(events),
          random_(seed),
          items_(random_, static_cast<int>(random_.between(0, 40))),
          heads_(random_, 20),
          asks_(random_, 20),
          replies_(random_, 20),
          sender_({.events_max = random_.between(1, 50),
                   .age_min = Millis{0},
                   .reply_items_max = random_.between(1, 8)}),
          receiver_(1, {.hold_back_max = random_.between(1, 16),
                        .ask_max = random_.between(1, 32),
                        .tries_max = 30,  // Falling back is not what is tested here.
                        .retry_min = Millis{1}}) {}

    void run(int pushes) {
        for (int i = 0; i < pushes; ++i) {
            push();
            step();
        }
        for (int i = 0; i < 200'000 && receiver_.delivered() < sender_.next("t") - 1; ++i) {
            step();
        }
        EXPECT_EQ(receiver_.delivered(), sender_.next("t") - 1) << "it never completed";
    }

    const std::vector<Item<Value>>& delivered() const { return delivered_; }
    const std::map<std::string, std::uint64_t>& newest() const { return newest_; }
    std::uint64_t pushed() const { return sender_.next("t") - 1; }
    std::uint64_t asked() const { return asked_; }
    std::uint64_t lost() const { return lost_; }

 private:
    using Actions = Receiver<Value>::Actions;

    void push() {
        Value value{"k" + std::to_string(random_.between(0, 4)), ++number_};
        const auto seq = sender_.push("t", value.key, events_, value, 10, now_);
        ASSERT_TRUE(seq);
        newest_[value.key] = number_;
        items_.send(now_, {*seq, value});
    }

    void step() {
        now_ += Millis{1};
        if (++steps_ % 50 == 0) {
            heads_.send(now_, sender_.next("t") - 1);
            sender_.durable("t", receiver_.delivered(), now_);
        }
        for (auto& item : items_.arrived(now_)) {
            take(receiver_.on_item(item.seq, item.value, now_, random_));
        }
        for (const std::uint64_t head : heads_.arrived(now_)) {
            take(receiver_.on_head(head, now_, random_));
        }
        for (const Range& asked : asks_.arrived(now_)) {
            replies_.send(now_, sender_.answer("t", asked));
        }
        for (auto& reply : replies_.arrived(now_)) {
            take(receiver_.on_range(reply, now_, random_));
        }
        if (receiver_.deadline() && now_ >= *receiver_.deadline()) {
            take(receiver_.on_timer(now_, random_));
        }
    }

    void take(Actions actions) {
        for (auto& item : actions.deliver) {
            delivered_.push_back(std::move(item));
        }
        for (const Range& range : actions.lost) {
            lost_ += range.to - range.from + 1;
        }
        if (actions.ask) {
            ++asked_;
            asks_.send(now_, *actions.ask);
        }
    }

    bool events_;
    Random random_;
    Channel<Item<Value>> items_;
    Channel<std::uint64_t> heads_;
    Channel<Range> asks_;
    Channel<RangeReply<Value>> replies_;
    Sender<Value> sender_;
    Receiver<Value> receiver_;
    Mono now_ = at(1000);
    std::uint64_t number_ = 0;
    std::uint64_t steps_ = 0;
    std::uint64_t asked_ = 0;
    std::uint64_t lost_ = 0;
    std::map<std::string, std::uint64_t> newest_;
    std::vector<Item<Value>> delivered_;
};

TEST(SequenceSimulation, EachEventArrivesOnceAndInOrder) {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Link link(seed, true);
        link.run(100);
        ASSERT_EQ(link.delivered().size(), 100u);
        for (std::size_t i = 0; i < 100; ++i) {
            ASSERT_EQ(link.delivered()[i].seq, i + 1);
            ASSERT_EQ(link.delivered()[i].value.number, i + 1);
        }
        ASSERT_EQ(link.lost(), 0u);
        ASSERT_LE(link.asked(), 600u) << "it asks far more often than it must";
    }
}

TEST(SequenceSimulation, TheNewestStateOfEachKeyArrivesAndNoneGoesBack) {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Link link(seed, false);
        link.run(100);
        std::map<std::string, std::uint64_t> newest;
        std::uint64_t last = 0;
        for (const auto& item : link.delivered()) {
            ASSERT_GT(item.seq, last);
            last = item.seq;
            newest[item.value.key] = item.value.number;
        }
        ASSERT_EQ(newest, link.newest());
        ASSERT_EQ(link.lost(), 0u);
        ASSERT_LE(link.asked(), 600u);
    }
}

}  // namespace
}  // namespace sigmacast::sequence
