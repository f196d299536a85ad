#include "broker/broker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>

#include "common/origin.h"
#include "storage/store.h"
#include "temp_folder.h"

namespace sigmacast::broker {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

Bytes map_of(std::string_view value) {
    std::string size(1, static_cast<char>(0xa0 + value.size()));
    if (value.size() >= 32) {
        size = "\xdb";
        for (const int shift : {24, 16, 8, 0}) {
            size += static_cast<char>((value.size() >> shift) & 0xff);
        }
    }
    return std::make_shared<const std::string>(std::string("\x81\xa1v", 3) + size +
                                               std::string(value));
}

std::string text_of(const Message& message) {
    return message.data ? message.data->substr(4) : "";
}

class World;

/// A real Origin whose sockets are the world's.
class Producer final : public Origin::Io {
 public:
    Producer(World& world, const std::string& name, std::uint64_t epoch,
             const std::string& instance);

    void value(const std::string& key, std::string_view data, bool final = false,
               const std::string& topic = "jobs", const std::string& poll = "p");
    void event(std::string_view data);
    void good_report(std::vector<std::string> keys = {});
    void bad_report(const std::string& code);
    void publish(Message message) override;
    void send(protocol::Any message) override;
    Result<> save_epoch(std::uint64_t) override { return {}; }

    World& world;
    std::string peer;
    bool cut = false;     // What it publishes is lost.
    bool slow = false;    // What it publishes waits in `late`.
    bool killed = false;  // It does nothing any more.
    Origin origin;
    std::vector<protocol::LiveKey> keys;
    std::vector<std::function<void()>> late;

 private:
    void push(Message message);
    std::optional<AsOf> as_of_;
};

/// A broker over a real store, with producers, in virtual time; commits run at once, are held, or
/// are refused.
class World final : public BrokerOutputs {
 public:
    World() { start(); }

    void start() {
        broker.reset();
        store.reset();
        auto opened = storage::Store::open(path, now, "boot");
        store = std::move(opened).value();
        reader.emplace(storage::LogReader::open(path, "boot").value());
        broker.emplace(store->take_loaded(), *this, Random(7));
        broker->start(now);
        settle();
    }
    Producer& producer(const std::string& name, std::uint64_t epoch = 1,
                       const std::string& instance = "i") {
        producers.push_back(std::make_unique<Producer>(*this, name, epoch, instance));
        producers.back()->origin.start(now);
        settle();
        return *producers.back();
    }
    void settle() {
        for (int steps = 0; !tasks.empty(); ++steps) {
            ASSERT_LT(steps, 100'000) << "the world does not come to rest";
            const auto task = std::move(tasks.front());
            tasks.pop_front();
            task();
        }
    }
    void advance(Millis span) {
        for (const Mono end = now.mono + span; now.mono < end;) {
            now.mono += Millis{10};
            now.wall += Millis{10};
            for (const auto& one : producers) {
                if (!one->killed) {
                    one->origin.on_timer(now);
                }
            }
            settle();
            if (now.mono >= broker->deadline()) {
                broker->on_timer(now);
                settle();
            }
        }
    }

    void publish(const Message& message) override {
        if (message.kind == Kind::kHead) {
            head = message;
        } else {
            feed.push_back(message);
        }
    }
    void reply(const std::string& peer, protocol::Any message) override {
        tasks.push_back([this, peer, any = std::move(message)] { deliver(peer, any); });
    }
    void commit(std::shared_ptr<const storage::Batch> batch) override {
        ++commits;
        EXPECT_EQ(nullptr, in_flight) << "two batches in flight";
        in_flight = std::move(batch);
        if (!hold_commits) {
            tasks.push_back([this] { finish_commit(); });
        }
    }
    Result<storage::LogRange> read_range(const std::string& origin, const std::string& topic,
                                         sequence::Range range, Now at) override {
        return reader->range(origin, topic, range, at);
    }
    Result<storage::LogPage> read_history(std::uint64_t from, std::uint64_t to, Now at) override {
        return reader->history(from, to, at);
    }
    void finish_commit() {
        const auto batch = std::exchange(in_flight, nullptr);
        if (disk_refuses) {
            broker->on_committed(Error{Errc::kFull, "disk full"}, now);
        } else {
            broker->on_committed(store->commit(*batch), now);
        }
    }
    void deliver(const std::string& peer, const protocol::Any& any) {
        if (peer == "edge") {
            answers.push_back(any);
            return;
        }
        for (const auto& one : producers) {
            if (one->peer == peer && !one->killed && !mute) {
                if (auto keys = one->origin.on_protocol(any, now)) {
                    one->keys = std::move(*keys);
                }
            }
        }
    }
    protocol::Snapshot snapshot() {
        broker->on_request("edge", protocol::SnapshotRequest{1}, now);
        settle();
        return std::get<protocol::Snapshot>(answers.back());
    }
    protocol::Range range(const std::string& topic, std::uint64_t from, std::uint64_t to) {
        broker->on_request("edge", protocol::Ask{1, "nas", topic, {from, to}}, now);
        settle();
        return std::get<protocol::Range>(answers.back());
    }
    protocol::History history(std::uint64_t from, const std::string& epoch) {
        broker->on_request("edge", protocol::HistoryRequest{7, epoch, from}, now);
        settle();
        return std::get<protocol::History>(answers.back());
    }
    /// What was published since the last call: "jobs/a=1 seq1 pos1", "transition jobs
    /// stale:REASON", "report p live".
    std::vector<std::string> seen(std::string_view topic = "") {
        std::vector<std::string> lines;
        for (const Message& message : feed) {
            if (topic.empty() || message.topic == topic) {
                lines.push_back(describe(message));
            }
        }
        feed.clear();
        return lines;
    }
    static std::string describe(const Message& message) {
        const std::string place = message.pos == 0 ? " volatile"
                                                   : " seq" + std::to_string(message.seq) + " pos" +
                                                         std::to_string(message.pos);
        const std::string age = std::string(to_string(message.age.quality)) +
                                (message.age.reason.empty() ? "" : ":" + message.age.reason);
        switch (message.kind) {
            case Kind::kValue:
                return message.topic + "/" + message.key + "=" + text_of(message) +
                       (message.final ? "!" : "") + place;
            case Kind::kEvent:
                return message.topic + " " + text_of(message) + place;
            case Kind::kTransition:
                return "transition " + message.topic + " " + age + place;
            case Kind::kReport:
                return "report " + message.poll + " " + age;
            case Kind::kGap:
                return "gap " + message.topic + place;
            case Kind::kHead:
                break;
        }
        return "?";
    }
    [[nodiscard]] std::vector<std::string> values() {
        std::vector<std::string> lines;
        for (const Message& value : snapshot().values) {
            lines.push_back(value.key + "=" + text_of(value) + (value.durable ? "" : " volatile"));
        }
        return lines;
    }

    TempFolder folder;
    std::string path = folder.file("w.db");
    Now now{Mono{Seconds{1000}}, Wall{Seconds{1'800'000'000}}};
    std::deque<std::function<void()>> tasks;
    std::unique_ptr<storage::Store> store;
    std::optional<storage::LogReader> reader;
    std::optional<Broker> broker;
    std::vector<std::unique_ptr<Producer>> producers;
    std::vector<Message> feed;
    std::vector<protocol::Any> answers;
    Message head;
    std::shared_ptr<const storage::Batch> in_flight;
    bool hold_commits = false;
    bool disk_refuses = false;
    bool mute = false;  // What the broker says to producers is lost.
    int commits = 0;
};

Producer::Producer(World& at, const std::string& name, std::uint64_t epoch,
                   const std::string& instance)
    : world(at),
      peer("peer-" + name + "-" + instance),
      origin({.name = name,
              .instance = instance,
              .epoch = epoch,
              .polls = {{"p", "jobs", Seconds{5}, Seconds{3}}},
              .limits = {}},
             *this) {}

void Producer::publish(Message message) {
    const auto arrive = [this, sent = world.now.mono, message] {
        Message received = decode(encode(message, sent), world.now).value();
        received.sent = sent;
        world.broker->on_messages({std::move(received)}, world.now);
    };
    if (slow) {
        late.emplace_back(arrive);
    } else if (!cut) {
        world.tasks.emplace_back(arrive);
    }
}

void Producer::send(protocol::Any message) {
    world.tasks.push_back(
        [this, any = std::move(message)] { world.broker->on_request(peer, any, world.now); });
}

void Producer::push(Message message) {
    origin.push(std::move(message), world.now);
    world.settle();
}

void Producer::value(const std::string& key, std::string_view data, bool final,
                     const std::string& topic, const std::string& poll) {
    Message message;
    message.kind = Kind::kValue;
    message.topic = topic;
    message.key = key;
    message.poll = poll;
    message.final = final;
    message.age.as_of = AsOf{world.now.wall, world.now.mono};
    message.data = map_of(data);
    push(std::move(message));
}

void Producer::event(std::string_view data) {
    Message message;
    message.kind = Kind::kEvent;
    message.topic = "alert";
    message.data = map_of(data);
    push(std::move(message));
}

void Producer::good_report(std::vector<std::string> report_keys) {
    as_of_ = AsOf{world.now.wall, world.now.mono};
    Report report;
    report.poll = "p";
    report.topic = "jobs";
    report.ok = true;
    report.as_of = as_of_;
    report.keys = std::move(report_keys);
    report.interval = Seconds{5};
    Message message;
    message.kind = Kind::kReport;
    message.topic = report_topic("p");
    message.detail = std::move(report);
    push(std::move(message));
}

void Producer::bad_report(const std::string& code) {
    Report report;
    report.poll = "p";
    report.topic = "jobs";
    report.as_of = as_of_;
    report.code = code;
    report.source = "engine";
    report.interval = Seconds{5};
    Message message;
    message.kind = Kind::kReport;
    message.topic = report_topic("p");
    message.detail = std::move(report);
    push(std::move(message));
}

class BrokerTest : public testing::Test {
 protected:
    World world;
};

TEST_F(BrokerTest, ValuesEventsTransitionsAndReportsAreStampedInOrder) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.event("x");
    nas.good_report({"a"});
    EXPECT_THAT(world.seen(), ElementsAre("jobs/a=1 seq1 pos1", "alert x seq1 pos2",
                                          "transition jobs live seq2 pos3", "report p live"));
}

TEST_F(BrokerTest, HistoryIsToldUpToWhatIsVisibleUnderThisEpochOnly) {
    Producer& nas = world.producer("nas");
    nas.event("x");
    nas.value("a", "1");
    nas.event("y");
    const std::string epoch = world.broker->epoch();
    const protocol::History all = world.history(0, epoch);
    EXPECT_EQ(7U, all.id);
    EXPECT_EQ(epoch, all.epoch);
    EXPECT_EQ(0U, all.from);
    EXPECT_EQ(3U, all.to);
    EXPECT_EQ(3U, all.pos);
    ASSERT_EQ(2U, all.items.size());
    EXPECT_EQ("y", text_of(all.items[1]));
    EXPECT_EQ(epoch, all.items[1].epoch);

    world.hold_commits = true;
    nas.event("z");
    EXPECT_EQ(3U, world.history(1, epoch).to) << "what is not visible is not told";
    EXPECT_EQ(1U, world.history(1, epoch).items.size());

    const protocol::History ahead = world.history(9, epoch);
    EXPECT_EQ(9U, ahead.to);
    EXPECT_EQ(3U, ahead.pos);
    const protocol::History other = world.history(0, "another");
    EXPECT_EQ(0U, other.to);
    EXPECT_EQ(epoch, other.epoch);
    EXPECT_THAT(other.items, IsEmpty());
}

TEST_F(BrokerTest, NothingIsSeenBeforeItIsCommitted) {
    Producer& nas = world.producer("nas");
    world.hold_commits = true;
    nas.value("a", "1");
    nas.event("x");
    EXPECT_THAT(world.seen(), IsEmpty());
    EXPECT_THAT(world.values(), IsEmpty());
    EXPECT_EQ(0U, nas.origin.durable("jobs"));
    EXPECT_EQ(0U, world.snapshot().pos);
    world.hold_commits = false;
    world.finish_commit();
    world.settle();
    EXPECT_THAT(world.seen(), ElementsAre("jobs/a=1 seq1 pos1", "alert x seq1 pos2"));
    EXPECT_EQ(1U, nas.origin.durable("jobs"));
    EXPECT_EQ(1U, nas.origin.durable("alert"));
}

TEST_F(BrokerTest, WhatArrivesWhileABatchIsInFlightMakesOneMore) {
    Producer& nas = world.producer("nas");
    world.hold_commits = true;
    nas.event("1");
    const int before = world.commits;
    for (int i = 0; i < 50; ++i) {
        nas.event("n");
    }
    EXPECT_EQ(before, world.commits);
    world.hold_commits = false;
    world.finish_commit();
    world.settle();
    EXPECT_EQ(before + 1, world.commits);
    EXPECT_EQ(51U, world.seen().size());
}

TEST_F(BrokerTest, WhatTheBusLostIsRepairedFromTheProducersRing) {
    Producer& nas = world.producer("nas");
    nas.event("1");
    nas.cut = true;
    nas.event("2");
    nas.event("3");
    nas.cut = false;
    world.advance(Seconds{2});
    EXPECT_THAT(world.seen(),
                ElementsAre("alert 1 seq1 pos1", "alert 2 seq2 pos2", "alert 3 seq3 pos3"));
}

TEST_F(BrokerTest, AnUnchangedAnswerIsAReportAndNothingElse) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    const std::uint64_t pos = world.broker->pos();
    world.seen();
    world.advance(Seconds{5});
    nas.good_report({"a"});
    EXPECT_THAT(world.seen(), ElementsAre("report p live"));
    EXPECT_EQ(pos, world.broker->pos());
    EXPECT_EQ(world.now.mono, world.snapshot().polls.at(0).age.as_of->mono);
}

TEST_F(BrokerTest, AReportNamesTheBrokersPositionsToTheEdges) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});  // The transition takes a position that the producer does not know.
    Report report;
    report.poll = "p";
    report.topic = "jobs";
    report.ok = true;
    report.after = {{"jobs", 1}};
    Message message;
    message.kind = Kind::kReport;
    message.topic = report_topic("p");
    message.detail = std::move(report);
    nas.origin.push(std::move(message), world.now);
    world.settle();
    ASSERT_EQ(Kind::kReport, world.feed.back().kind);
    EXPECT_EQ(2U, world.feed.back().report().after.at(0).seq);
}

TEST_F(BrokerTest, AFailureIsToldOnceAndNamesTheKeysOfItsPoll) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.value("b", "2");
    nas.good_report({"a", "b"});
    world.seen();
    nas.bad_report("RPC_DISCONNECT");
    EXPECT_THAT(world.feed.at(0).keys, ElementsAre("a", "b"));
    nas.bad_report("RPC_DISCONNECT");
    EXPECT_THAT(world.seen(),
                ElementsAre("transition jobs stale:RPC_DISCONNECT seq4 pos4",
                            "report p stale:RPC_DISCONNECT", "report p stale:RPC_DISCONNECT"));
    EXPECT_THAT(world.values(), ElementsAre("a=1", "b=2"));
}

TEST_F(BrokerTest, AFinalValueRemovesItsKey) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.value("b", "2");
    nas.value("a", "done", true);
    EXPECT_THAT(world.values(), ElementsAre("b=2"));
    EXPECT_EQ(3U, world.range("jobs", 1, 3).items.size()) << "it stays in the log";
}

TEST_F(BrokerTest, ASilentProducerIsToldAfterThreeSeconds) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.value("b", "1", false, "breaker", "");
    nas.good_report({"a"});
    world.advance(Seconds{2});
    world.seen();
    nas.killed = true;
    world.advance(Millis{2'900});
    EXPECT_THAT(world.seen(), IsEmpty());
    world.advance(Seconds{20});
    EXPECT_THAT(world.seen(), testing::UnorderedElementsAre(
                                  "transition jobs stale:PRODUCER_SILENT seq3 pos4",
                                  "transition breaker stale:PRODUCER_SILENT seq2 pos5"));
}

TEST_F(BrokerTest, AValueThatWasOnItsWayForLongerThanASilenceMayLastIsNotCalledLive) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.seen();
    nas.slow = true;
    world.advance(Seconds{1});
    nas.value("a", "2");
    nas.good_report({"a"});
    world.advance(Seconds{3});
    EXPECT_THAT(world.seen(), ElementsAre("transition jobs stale:PRODUCER_SILENT seq3 pos3"));
    for (const auto& arrive : nas.late) {
        arrive();
        world.settle();
    }
    ASSERT_THAT(world.feed, testing::SizeIs(testing::Ge(1U)));
    EXPECT_EQ("jobs/a=2 seq4 pos4", World::describe(world.feed.front()));
    EXPECT_EQ(Quality::kStale, world.feed.front().age.quality);
    EXPECT_EQ("PRODUCER_SILENT", world.feed.front().age.reason);
    EXPECT_EQ("producer", world.feed.front().age.source);
    world.seen();
    nas.slow = false;
    nas.value("a", "3");
    nas.good_report({"a"});
    EXPECT_THAT(world.seen(), testing::Contains("transition jobs live seq6 pos6"))
        << "with the report, not before";
}

TEST_F(BrokerTest, ALateValueIsNotLiveThoughItsProducerIsHeardAgain) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    nas.slow = true;
    nas.value("a", "2");
    world.advance(Seconds{12});
    world.start();  // And is introduced anew before what was on its way arrives.
    world.advance(Seconds{2});
    world.seen();
    for (const auto& arrive : nas.late) {
        arrive();
        world.settle();
    }
    ASSERT_THAT(world.feed, testing::Not(IsEmpty()));
    const auto late = std::find_if(world.feed.begin(), world.feed.end(),
                                   [](const Message& each) { return each.kind == Kind::kValue; });
    ASSERT_NE(late, world.feed.end());
    EXPECT_EQ("2", text_of(*late));
    EXPECT_EQ(Quality::kStale, late->age.quality);
    EXPECT_EQ("BROKER_RESTARTED", late->age.reason) << "as its poll";
}

TEST_F(BrokerTest, AValueOfASilentPollIsNotLiveUntilTheReportBehindIt) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.advance(Seconds{12});  // Heads alone.
    ASSERT_EQ("transition jobs stale:POLL_SILENT seq3 pos3", World::describe(world.feed.back()));
    nas.value("a", "2");
    EXPECT_EQ("jobs/a=2 seq4 pos4", World::describe(world.feed.back()));
    EXPECT_EQ(Quality::kStale, world.feed.back().age.quality);
    EXPECT_EQ("POLL_SILENT", world.feed.back().age.reason);
    world.seen();
    nas.good_report({"a"});
    EXPECT_THAT(world.seen("jobs"), ElementsAre("transition jobs live seq5 pos5"));
}

TEST_F(BrokerTest, AValueThatComesBehindTheFailureOfItsPollIsNotLive) {
    Producer& nas = world.producer("nas");
    nas.cut = true;
    nas.value("a", "1");
    nas.cut = false;
    nas.good_report({"a"});
    nas.bad_report("POLL_FAILED");
    world.seen();
    world.advance(Seconds{2});  // It is asked for, and sent again.
    const auto late = std::find_if(world.feed.begin(), world.feed.end(),
                                   [](const Message& each) { return each.kind == Kind::kValue; });
    ASSERT_NE(late, world.feed.end());
    EXPECT_EQ(Quality::kStale, late->age.quality);
    EXPECT_EQ("POLL_FAILED", late->age.reason);
    EXPECT_EQ("engine", late->age.source);
    nas.value("a", "2");  // Another answer's.
    EXPECT_EQ(Quality::kLive, world.feed.back().age.quality);
}

TEST_F(BrokerTest, EventsThatTheDiskRefusedAndWhoseProducerHasEndedAreAGapInTheLog) {
    Producer& first = world.producer("nas");
    first.event("durable");
    world.disk_refuses = true;
    first.event("lost");
    first.killed = true;
    Producer& second = world.producer("nas", 2, "j");
    second.event("after");
    world.seen();
    world.disk_refuses = false;
    world.advance(Seconds{5});
    EXPECT_THAT(world.seen("alert"), ElementsAre("gap alert seq2 pos2", "alert after seq3 pos3"));
}

TEST_F(BrokerTest, WhatTheDiskRefusedIsToldAnewAsItIsByThen) {
    Producer& nas = world.producer("nas");
    world.disk_refuses = true;
    nas.value("a", "1");
    nas.good_report({"a"});
    nas.bad_report("POLL_FAILED");
    world.disk_refuses = false;
    world.seen();
    world.advance(Seconds{5});
    const auto again = std::find_if(world.feed.begin(), world.feed.end(), [](const Message& each) {
        return each.kind == Kind::kValue && each.durable;
    });
    ASSERT_NE(again, world.feed.end());
    EXPECT_EQ(Quality::kStale, again->age.quality) << "its transition, behind it, may be lost";
    EXPECT_EQ("POLL_FAILED", again->age.reason);
}

TEST_F(BrokerTest, AfterASilenceThatItSleptThroughABrokerVouchesForNothingUntilItIsTold) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.advance(Seconds{1});
    nas.killed = true;
    world.now.mono += Seconds{6};  // It was frozen, and a message is read before the timer is.
    world.now.wall += Seconds{6};
    EXPECT_EQ(Quality::kStale, world.snapshot().polls.front().age.quality);
    world.hold_commits = true;
    world.broker->on_timer(world.now);  // Its head comes before the transition is in the log.
    const Age& told = world.head.head().polls.front().age;
    EXPECT_EQ(Quality::kStale, told.quality);
    EXPECT_EQ("PRODUCER_SILENT", told.reason);
    EXPECT_EQ("producer", told.source);
    EXPECT_EQ(Seconds{7}, elapsed(told.as_of->mono, world.now.mono));
}

/// "breaker/x stale:PRODUCER_SILENT 2500": quality, reason and age in ms, as an edge judges them.
std::vector<std::string> unpolled(World& world) {
    std::vector<std::string> lines;
    const protocol::Snapshot snapshot = world.snapshot();
    for (const Message& value : snapshot.values) {
        for (const PollState& poll : snapshot.polls) {
            if (value.origin != poll.origin || value.poll != poll.report.poll ||
                !is_state_poll(value.poll)) {
                continue;
            }
            const auto& keys = poll.report.keys;
            const bool named =
                !keys || std::find(keys->begin(), keys->end(), value.key) != keys->end();
            const std::string quality =
                !named ? "left"
                       : std::string(to_string(poll.age.quality)) +
                             (poll.age.reason.empty() ? "" : ":" + poll.age.reason);
            const auto as_of = named ? poll.age.as_of : value.age.as_of;
            lines.push_back(value.topic + "/" + value.key + " " + quality + " " +
                            std::to_string(elapsed(as_of->mono, world.now.mono).count()));
        }
    }
    return lines;
}

TEST_F(BrokerTest, HeadsVouchForStateThatNoPollFeedsAndKeepItYoung) {
    Producer& nas = world.producer("nas");
    nas.value("x", "1", false, "breaker", "");
    nas.value("y", "1", false, "breaker", "");
    EXPECT_EQ("state:breaker", world.feed.back().poll);
    world.advance(Seconds{60});
    EXPECT_THAT(unpolled(world), ElementsAre("breaker/x live 0", "breaker/y live 0"));
    EXPECT_THAT(world.seen("breaker"),
                ElementsAre("breaker/x=1 seq1 pos1", "breaker/y=1 seq2 pos2"))
        << "no transition, and nothing more to publish";
    EXPECT_LT(world.commits, 10) << "being alive is not written to the disk each second";
    nas.killed = true;
    world.advance(Seconds{10});
    EXPECT_THAT(world.seen("breaker"),
                ElementsAre("transition breaker stale:PRODUCER_SILENT seq3 pos5"));
    EXPECT_THAT(unpolled(world), ElementsAre("breaker/x stale:PRODUCER_SILENT 10000",
                                             "breaker/y stale:PRODUCER_SILENT 10000"));
}

TEST_F(BrokerTest, ALaterInstanceVouchesOnlyForTheTopicsAndKeysThatItHasSent) {
    Producer& first = world.producer("publish@nas", 1, "first");
    first.value("x", "1", false, "weather", "");
    first.value("x", "1", false, "door", "");
    first.value("y", "1", false, "door", "");
    world.advance(Seconds{1});
    first.killed = true;
    world.advance(Seconds{10});
    world.seen();
    Producer& second = world.producer("publish@nas", 2, "second");
    second.value("y", "2", false, "door", "");
    world.advance(Seconds{5});
    for (const Message& message : world.feed) {
        EXPECT_NE("weather", message.topic);
    }
    EXPECT_THAT(world.seen("door"),
                ElementsAre("door/y=2 seq4 pos7", "transition door live seq5 pos8"));
    const std::vector<std::string> expected{"weather/x left 16000", "door/x left 16000",
                                            "door/y live 0"};
    EXPECT_EQ(expected, unpolled(world));
    world.start();
    world.advance(Seconds{2});
    const std::vector<std::string> after_restart{"weather/x left 18000", "door/x left 18000",
                                                 "door/y live 0"};
    EXPECT_EQ(after_restart, unpolled(world));
    second.value("x", "3", false, "door", "");
    EXPECT_THAT(unpolled(world), Contains("door/x live 0"));
}

TEST_F(BrokerTest, ATransitionNamesTheKeysThatTheLaterInstanceHasSent) {
    Producer& first = world.producer("publish@nas", 1, "first");
    first.value("x", "1", false, "door", "");
    world.advance(Seconds{1});
    world.feed.clear();
    Producer& second = world.producer("publish@nas", 2, "second");
    ASSERT_EQ(1U, world.feed.size()) << "at once: the one that vouched is gone";
    EXPECT_EQ("transition door stale:PRODUCER_SILENT seq2 pos2", World::describe(world.feed[0]));
    EXPECT_THAT(world.feed[0].keys, ElementsAre("x"));
    second.value("y", "2", false, "door", "");
    EXPECT_EQ("transition door live seq4 pos4", World::describe(world.feed.back()));
    EXPECT_THAT(world.feed.back().keys, ElementsAre("y"));
}

TEST_F(BrokerTest, AHeadNamesNoKeyWhoseNewValueOfALaterInstanceIsStillBeingCommitted) {
    Producer& first = world.producer("publish@nas", 1, "first");
    first.value("x", "1", false, "door", "");
    first.value("y", "1", false, "door", "");
    Producer& second = world.producer("publish@nas", 2, "second");
    second.value("y", "2", false, "door", "");
    world.hold_commits = true;
    second.value("z", "3", false, "door", "");  // Its commit takes its time,
    second.value("x", "4", false, "door", "");  // and this one waits behind it.
    const auto keys = [&] { return world.head.head().polls.back().report.keys; };
    world.advance(Seconds{1});
    world.finish_commit();
    ASSERT_NE(nullptr, world.in_flight);
    EXPECT_EQ((std::vector<std::string>{"y", "z"}), keys());
    world.hold_commits = false;
    world.finish_commit();
    world.advance(Seconds{1});
    EXPECT_EQ(std::nullopt, keys()) << "all of them";
}

TEST_F(BrokerTest, AHeadDoesNotVouchForAStreamThatIsNotWhole) {
    Producer& nas = world.producer("nas");
    nas.value("x", "1", false, "door", "");
    nas.value("x", "1", false, "weather", "");
    nas.cut = true;
    nas.value("x", "2", false, "door", "");
    nas.cut = false;
    world.mute = true;  // The broker's questions do not arrive.
    world.advance(Seconds{5});
    EXPECT_THAT(unpolled(world),
                ElementsAre("door/x stale:PRODUCER_SILENT 5000", "weather/x live 0"));
    world.mute = false;
    world.advance(Seconds{10});
    EXPECT_THAT(unpolled(world),
                testing::UnorderedElementsAre("door/x live 0", "weather/x live 0"));
    EXPECT_THAT(world.values(), Contains("x=2"));
}

TEST_F(BrokerTest, HeadsNameEveryStreamAndPollEachSecond) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.advance(Seconds{1});
    const Head& head = world.head.head();
    EXPECT_EQ(2U, head.pos);
    ASSERT_EQ(1U, head.streams.size()) << "report streams have no place on the feed";
    EXPECT_EQ(2U, head.streams[0].seq);
    ASSERT_EQ(1U, head.polls.size());
    EXPECT_EQ(Quality::kLive, head.polls[0].age.quality);
    EXPECT_EQ(world.broker->epoch(), world.head.epoch);
}

TEST_F(BrokerTest, HeadsAndSilenceAreOnTimeWhereInputLeavesTheTimerNoTurn) {
    Producer& other = world.producer("other");
    other.value("a", "1");
    other.good_report({"a"});
    Producer& nas = world.producer("nas");
    world.seen();
    Mono last = world.now.mono;
    for (int step = 0; step < 500; ++step) {
        world.now.mono += Millis{10};
        world.now.wall += Millis{10};
        world.head = {};
        nas.event("x");
        if (world.head.kind == Kind::kHead) {
            EXPECT_LE(elapsed(last, world.now.mono), Millis{1010});
            last = world.now.mono;
        }
    }
    EXPECT_LE(elapsed(last, world.now.mono), Millis{1010});
    EXPECT_THAT(world.seen("jobs"), Contains("transition jobs stale:PRODUCER_SILENT seq3 pos304"));
}

TEST_F(BrokerTest, AHeadTellsAtOnceOfAPollThatNobodyKnew) {
    world.producer("nas");
    world.advance(Millis{1100});
    world.head = {};
    Producer& other = world.producer("other");
    other.value("a", "1");
    other.good_report({"a"});
    ASSERT_EQ(world.head.kind, Kind::kHead) << "no time has passed";
    EXPECT_THAT(world.head.head().polls, Contains(testing::Field(&PollState::origin, "other")));
}

TEST_F(BrokerTest, ACommitThatDoesNotReturnHoldsTheHeadBackUntilItDoes) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.advance(Seconds{2});
    world.hold_commits = true;
    nas.value("a", "2");
    world.settle();
    const Mono hangs = world.now.mono;
    Mono last = hangs;
    for (int step = 0; step < 100; ++step) {
        world.head = {};
        world.advance(Millis{50});
        if (world.head.kind == Kind::kHead) {
            last = world.now.mono;
        }
    }
    EXPECT_LE(elapsed(hangs, last), kCommitPatience) << "nothing may pass for live any more";
    EXPECT_GT(world.broker->deadline(), world.now.mono) << "and no timer runs in circles for it";
    world.answers.clear();
    world.broker->on_request("edge", protocol::SnapshotRequest{9}, world.now);
    world.settle();
    EXPECT_THAT(world.answers, IsEmpty()) << "to an edge a snapshot is as good as a head";
    world.hold_commits = false;
    world.finish_commit();
    world.settle();
    EXPECT_EQ(world.head.kind, Kind::kHead);
    EXPECT_EQ(world.head.head().pos, world.broker->pos());
    ASSERT_EQ(world.answers.size(), 1U);
    EXPECT_EQ(std::get<protocol::Snapshot>(world.answers[0]).pos, world.broker->pos());
}

TEST_F(BrokerTest, WhatACommitHeldForLongerThanASilenceMayLastIsNotCalledLive) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.hold_commits = true;
    for (int i = 0; i < 4; ++i) {
        world.advance(Seconds{5});
        nas.value("a", std::to_string(i));
        nas.good_report({"a"});
    }
    world.finish_commit();  // The first of them; the others are in the next.
    const Age told = world.head.head().polls.front().age;
    EXPECT_EQ(Quality::kStale, told.quality);
    EXPECT_EQ("POLL_SILENT", told.reason);
    EXPECT_EQ(Seconds{20}, elapsed(told.as_of->mono, world.now.mono));
    world.hold_commits = false;
    world.finish_commit();
    world.settle();
    EXPECT_EQ(Quality::kLive, world.head.head().polls.front().age.quality);
}

TEST_F(BrokerTest, AnEdgeThatAskedDuringACommitThatThenFailsIsAnswered) {
    Producer& nas = world.producer("nas");
    world.hold_commits = true;
    nas.value("a", "1");
    world.settle();
    world.advance(kCommitPatience);
    world.answers.clear();
    world.broker->on_request("edge", protocol::SnapshotRequest{9}, world.now);
    world.settle();
    EXPECT_THAT(world.answers, IsEmpty());
    world.disk_refuses = true;
    world.finish_commit();
    world.settle();
    EXPECT_EQ(world.answers.size(), 1U);
}

TEST_F(BrokerTest, ARestartKeepsStateAndAsOfAndCallsEverythingStaleUntilAGoodReport) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    const Mono as_of = world.now.mono;
    const std::string epoch = world.broker->epoch();
    nas.killed = true;
    world.advance(Seconds{2});
    world.seen();
    world.start();
    EXPECT_EQ(epoch, world.broker->epoch());
    EXPECT_THAT(world.values(), ElementsAre("a=1"));
    EXPECT_THAT(world.seen(), ElementsAre("transition jobs stale:BROKER_RESTARTED seq3 pos3"));
    const PollState poll = world.snapshot().polls.at(0);
    EXPECT_EQ(Quality::kStale, poll.age.quality);
    EXPECT_EQ(as_of, poll.age.as_of->mono);
    nas.killed = false;
    world.advance(Seconds{1});
    EXPECT_THAT(world.seen(), IsEmpty()) << "a head is no answer of the engine";
    nas.good_report({"a"});
    EXPECT_THAT(world.seen(), ElementsAre("transition jobs live seq4 pos4", "report p live"));
}

TEST_F(BrokerTest, ValuesWhosePollsRowIsDamagedAreStaleAfterARestartUntilAGoodReport) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    const Mono as_of = world.now.mono;
    world.advance(Seconds{1});
    nas.good_report({"a"});
    nas.killed = true;
    world.seen();
    world.store->database().execute("UPDATE polls SET header = x'80' WHERE poll = 'p'").value();
    world.start();
    EXPECT_THAT(world.seen(), ElementsAre("transition jobs stale:BROKER_RESTARTED seq3 pos3"));
    const protocol::Snapshot snapshot = world.snapshot();
    ASSERT_EQ(1U, snapshot.polls.size());
    EXPECT_EQ("p", snapshot.polls[0].report.poll);
    EXPECT_EQ("jobs", snapshot.polls[0].report.topic);
    EXPECT_EQ(Quality::kStale, snapshot.polls[0].age.quality);
    EXPECT_EQ(as_of, snapshot.polls[0].age.as_of->mono) << "as old as its last change";
    nas.killed = false;
    nas.good_report({"a"});
    EXPECT_THAT(world.seen(), ElementsAre("transition jobs live seq4 pos4", "report p live"));
}

TEST_F(BrokerTest, StateWhoseRowIsDamagedIsNotVouchedForUntilItIsSentAgain) {
    Producer& nas = world.producer("nas");
    nas.value("x", "1", false, "door", "");
    nas.value("y", "1", false, "door", "");
    world.store->database().execute("DELETE FROM polls WHERE poll = 'state:door'").value();
    world.start();
    nas.value("y", "2", false, "door", "");
    world.advance(Seconds{2});
    EXPECT_THAT(unpolled(world), ElementsAre("door/x left 2000", "door/y live 0"));
}

TEST_F(BrokerTest, AProducerGoesOnAfterTheBrokersRestartWithoutLossOrRepetition) {
    Producer& nas = world.producer("nas");
    nas.event("1");
    world.seen();
    world.start();
    nas.cut = true;
    nas.event("2");
    nas.cut = false;
    nas.event("3");
    world.advance(Seconds{3});
    EXPECT_THAT(world.seen(), ElementsAre("alert 2 seq2 pos2", "alert 3 seq3 pos3"));
}

TEST_F(BrokerTest, ANewInstanceIsToldTheLiveKeysAndTheOldOneIsFenced) {
    Producer& old = world.producer("nas", 1, "old");
    old.value("a", "1");
    old.value("b", "2");
    old.value("b", "end", true);
    Producer& fresh = world.producer("nas", 1, "fresh");
    EXPECT_EQ(2U, fresh.origin.epoch()) << "raised above the broker's floor once";
    ASSERT_EQ(1U, fresh.keys.size());
    EXPECT_EQ("a", fresh.keys[0].key);
    EXPECT_EQ(*map_of("1"), *fresh.keys[0].data);
    world.seen();
    old.value("a", "ghost");
    EXPECT_THAT(world.seen(), IsEmpty());
    world.advance(Seconds{2});
    EXPECT_EQ(Origin::State::kConflict, old.origin.state());
    EXPECT_EQ(Origin::State::kJoined, fresh.origin.state());
}

TEST_F(BrokerTest, TwoOriginsHaveTheirOwnStreamsInOneLog) {
    Producer& nas = world.producer("nas");
    Producer& other = world.producer("other");
    nas.event("1");
    other.event("2");
    nas.event("3");
    EXPECT_THAT(world.seen(),
                ElementsAre("alert 1 seq1 pos1", "alert 2 seq1 pos2", "alert 3 seq2 pos3"));
    EXPECT_EQ(2U, world.snapshot().streams.size());
}

TEST_F(BrokerTest, ARangeComesFromTheLogUpToWhatIsCommitted) {
    Producer& nas = world.producer("nas");
    nas.event("1");
    nas.event("2");
    const protocol::Range answer = world.range("alert", 1, 10);
    EXPECT_EQ(2U, answer.items.size());
    EXPECT_EQ(2U, answer.range.to);
    EXPECT_EQ(world.broker->epoch(), answer.items.at(0).epoch);
    EXPECT_THAT(world.range("unknown", 1, 10).items, IsEmpty());
}

TEST_F(BrokerTest, AnEdgeThatWasSentMoreThanTheLogHoldsIsAnsweredOnceANewEpochIsCommitted) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    world.seen();
    const std::string before = world.broker->epoch();
    world.hold_commits = true;
    world.broker->on_request("edge", protocol::SnapshotRequest{4, before, 50}, world.now);
    nas.event("x");
    world.settle();
    EXPECT_THAT(world.answers, IsEmpty());
    EXPECT_EQ(before, world.broker->epoch());
    world.hold_commits = false;
    world.finish_commit();
    world.settle();
    const std::string after = world.broker->epoch();
    EXPECT_NE(before, after);
    EXPECT_EQ(32U, after.size());
    ASSERT_EQ(1U, world.answers.size());
    const auto& answer = std::get<protocol::Snapshot>(world.answers.at(0));
    EXPECT_EQ(4U, answer.id);
    EXPECT_EQ(after, answer.epoch);
    EXPECT_EQ(after, answer.values.at(0).epoch);
    EXPECT_EQ(after, world.head.epoch) << "the other edges are told at once";
    ASSERT_EQ(1U, world.feed.size());
    EXPECT_EQ(after, world.feed.at(0).epoch);
    world.start();
    EXPECT_EQ(after, world.broker->epoch()) << "and it is kept";
}

TEST_F(BrokerTest, AnEdgeThatWasSentNoMoreThanTheLogHoldsChangesNothing) {
    world.producer("nas").value("a", "1");
    const std::string epoch = world.broker->epoch();
    const std::uint64_t pos = world.broker->pos();
    for (const auto& request :
         {protocol::SnapshotRequest{1, epoch, pos}, protocol::SnapshotRequest{2, "other", pos + 9},
          protocol::SnapshotRequest{3, "", 0},
          protocol::SnapshotRequest{4, epoch, sequence::kSeqMax + 1}}) {
        world.broker->on_request("edge", request, world.now);
        world.settle();
        EXPECT_EQ(request.id, std::get<protocol::Snapshot>(world.answers.back()).id);
    }
    EXPECT_EQ(epoch, world.broker->epoch());
}

TEST_F(BrokerTest, WhileTheDiskRefusesNobodyIsAnsweredWithAnEpochThatWouldNotLast) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    const std::string before = world.broker->epoch();
    world.disk_refuses = true;
    nas.value("a", "2");
    world.broker->on_request("edge", protocol::SnapshotRequest{4, before, 50}, world.now);
    world.advance(Seconds{5});
    EXPECT_THAT(world.answers, IsEmpty());
    EXPECT_EQ(before, world.snapshot().epoch) << "an edge that was sent nothing yet is served";
    world.answers.clear();
    world.disk_refuses = false;
    world.advance(Seconds{2});
    ASSERT_EQ(1U, world.answers.size());
    const auto& answer = std::get<protocol::Snapshot>(world.answers.at(0));
    EXPECT_NE(before, answer.epoch);
    EXPECT_EQ(answer.epoch, answer.values.at(0).epoch);
}

TEST_F(BrokerTest, AnEdgeOfTheEpochBeforeIsLeftToAskForTheEventsSinceTheStart) {
    Producer& nas = world.producer("nas");
    nas.event("1");
    nas.event("2");
    world.start();
    nas.event("3");
    world.advance(Seconds{2});
    nas.value("a", "1");
    const std::string before = world.broker->epoch();
    const auto alerts = [this](const protocol::SnapshotRequest& request) {
        world.broker->on_request("edge", request, world.now);
        world.settle();
        for (const StreamHead& head : std::get<protocol::Snapshot>(world.answers.back()).streams) {
            if (head.topic == "alert") {
                return head.seq;
            }
        }
        return std::uint64_t{0};
    };
    EXPECT_EQ(3U, alerts({1, before, 1}));
    EXPECT_EQ(2U, alerts({2, before, 50}));
    EXPECT_NE(before, world.broker->epoch());
    EXPECT_EQ(2U, alerts({3, before, 1})) << "another edge that followed";
    EXPECT_EQ(3U, alerts({4, "", 0})) << "one that comes new";
    EXPECT_EQ(world.broker->epoch(), world.range("alert", 3, 3).items.at(0).epoch);
}

TEST_F(BrokerTest, WhileTheDiskRefusesStateFlowsAsVolatileAndEventsWait) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.seen();
    world.disk_refuses = true;
    nas.value("a", "2");
    nas.event("x");
    nas.value("b", "3");
    nas.bad_report("RPC_DISCONNECT");
    EXPECT_THAT(world.seen(), ElementsAre("jobs/a=2 volatile", "jobs/b=3 volatile",
                                          "transition jobs stale:RPC_DISCONNECT volatile",
                                          "report p stale:RPC_DISCONNECT"));
    EXPECT_FALSE(world.broker->durable());
    EXPECT_THAT(world.values(), ElementsAre("a=2 volatile", "b=3 volatile"));
    EXPECT_EQ(2U, world.broker->pos());
    EXPECT_EQ(0U, nas.origin.durable("alert"));
}

TEST_F(BrokerTest, WhatFlowsIsCountedSoThatAnEdgeKnowsWhatItLacks) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.feed.clear();
    world.disk_refuses = true;
    nas.value("a", "2");
    nas.value("a", "3");
    nas.good_report({"a"});
    ASSERT_EQ(3U, world.feed.size());
    const Flow first = world.feed[0].flow;
    EXPECT_EQ(2U, world.feed[0].after);
    EXPECT_EQ(1U, first.nth);
    EXPECT_EQ(2U, world.feed[1].flow.nth);
    EXPECT_EQ(first.run, world.feed[1].flow.run);
    const auto expect_two = [&](const Flow& flow, std::uint64_t seq, const char* where) {
        EXPECT_EQ(2U, seq) << where;
        EXPECT_EQ(2U, flow.nth) << where;
        EXPECT_EQ(first.run, flow.run) << where;
    };
    const Mark mark = world.feed[2].report().after.at(0);
    expect_two(mark.flow, mark.seq, "report");
    world.advance(Seconds{1});
    const StreamHead head = world.head.head().streams.at(0);
    expect_two(head.flow, head.seq, "head");
    const StreamHead snapshot = world.snapshot().streams.at(0);
    expect_two(snapshot.flow, snapshot.seq, "snapshot");
    world.disk_refuses = false;
    world.advance(Seconds{2});
    EXPECT_EQ(0U, world.snapshot().streams.at(0).flow.nth);
    EXPECT_EQ(0U, world.feed.back().flow.nth);
}

TEST_F(BrokerTest, CommitsAreTriedEachSecondAndRepeatNothing) {
    Producer& nas = world.producer("nas");
    world.disk_refuses = true;
    nas.value("a", "2");
    world.seen();
    const int before = world.commits;
    world.advance(Seconds{10});
    EXPECT_NEAR(10, world.commits - before, 1);
    EXPECT_THAT(world.seen(), Not(Contains("jobs/a=2 volatile")));
}

TEST_F(BrokerTest, WhenTheDiskWorksAgainWhatIsInForceIsCommittedAnewAndEventsFollow) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    world.disk_refuses = true;
    nas.value("a", "2");
    nas.event("x");
    nas.value("a", "3");
    nas.bad_report("RPC_DISCONNECT");
    world.seen();
    world.disk_refuses = false;
    world.advance(Seconds{3});
    EXPECT_TRUE(world.broker->durable());
    EXPECT_THAT(world.seen(),
                ElementsAre("jobs/a=3 seq3 pos3", "transition jobs stale:RPC_DISCONNECT seq4 pos4",
                            "alert x seq1 pos5"));
    EXPECT_THAT(world.values(), ElementsAre("a=3"));
    EXPECT_EQ(1U, nas.origin.durable("alert"));
    world.start();
    EXPECT_THAT(world.values(), ElementsAre("a=3"));
}

TEST_F(BrokerTest, AKeyThatEndsWhileTheDiskRefusesIsGoneAtOnceAndStaysGone) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    world.disk_refuses = true;
    nas.value("a", "end", true);
    EXPECT_THAT(world.values(), IsEmpty());
    world.disk_refuses = false;
    world.advance(Seconds{2});
    EXPECT_THAT(world.values(), IsEmpty());
    world.start();
    EXPECT_THAT(world.values(), IsEmpty());
}

TEST_F(BrokerTest, APoisonRowIsSeenAsAGapInItsPlace) {
    Producer& nas = world.producer("nas");
    world.store->database().limit_row_bytes(2000);
    world.hold_commits = true;
    nas.event("1");
    Message large;
    large.kind = Kind::kEvent;
    large.topic = "alert";
    large.data = std::make_shared<const std::string>(std::string("\x81\xa1v\xda\x13\x88", 6) +
                                                     std::string(5000, 'x'));
    nas.origin.push(large, world.now);
    world.settle();
    nas.event("3");
    world.hold_commits = false;
    world.finish_commit();
    world.settle();
    EXPECT_THAT(world.seen(),
                ElementsAre("alert 1 seq1 pos1", "gap alert seq2 pos2", "alert 3 seq3 pos3"));
    EXPECT_EQ(0U, nas.origin.undurable()) << "it counts as received";
}

/// As large as a value may be, nearly: twelve fit.
std::string large(char letter) {
    return std::string(4'000'000, letter);
}

std::string keys_of(const protocol::Snapshot& snapshot) {
    std::string keys;
    for (const Message& value : snapshot.values) {
        keys += value.key;
    }
    return keys;
}

TEST_F(BrokerTest, AValueBeyondTheBytesOfLiveStateIsAGapAndAnEndMakesRoom) {
    Producer& nas = world.producer("nas");
    for (char key = 'a'; key < 'a' + 12; ++key) {
        nas.value(std::string(1, key), large(key), false, "big", "");
    }
    EXPECT_EQ(world.broker->counts().refused_values, 0u);
    EXPECT_LE(world.broker->state_bytes(), kStateBytesMax);
    world.seen();
    nas.value("m", large('m'), false, "big", "");
    nas.value("n", large('n'), false, "big", "");
    EXPECT_THAT(world.seen("big"), ElementsAre("gap big seq13 pos13", "gap big seq14 pos14"));
    EXPECT_EQ(world.broker->counts().refused_values, 2u);
    EXPECT_EQ(keys_of(world.snapshot()), "abcdefghijkl");
    nas.value("small", "1", false, "big", "");
    nas.value("a", "end", true, "big", "");
    nas.value("m", large('m'), false, "big", "");
    EXPECT_EQ(keys_of(world.snapshot()), "bcdefghijklsmallm");
    EXPECT_EQ(world.broker->counts().refused_values, 2u);
}

TEST_F(BrokerTest, TheBytesOfLiveStateAreCountedAgainAfterARestart) {
    Producer& nas = world.producer("nas");
    for (char key = 'a'; key < 'a' + 12; ++key) {
        nas.value(std::string(1, key), large(key), false, "big", "");
    }
    const std::size_t before = world.broker->state_bytes();
    EXPECT_GT(before, 48'000'000u);
    world.start();
    EXPECT_EQ(world.broker->state_bytes(), before);
}

TEST_F(BrokerTest, AKeyWhoseNewestValueWasRefusedIsNotVouchedForUntilOneFits) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1", false, "big", "");
    nas.value("z", "1", false, "big", "");
    for (char key = 'b'; key < 'b' + 12; ++key) {
        nas.value(std::string(1, key), large(key), false, "more", "");
    }
    nas.value("a", large('a'), false, "big", "");
    ASSERT_EQ(world.broker->counts().refused_values, 1u);
    const auto keys = [&] {
        for (const PollState& poll : world.snapshot().polls) {
            if (poll.report.poll == state_poll("big")) {
                return poll.report.keys;
            }
        }
        return std::optional<std::vector<std::string>>{};
    };
    ASSERT_TRUE(keys());
    EXPECT_THAT(*keys(), ElementsAre("z"));
    nas.value("a", "2", false, "big", "");
    EXPECT_FALSE(keys()) << "all keys are vouched for again";
}

TEST_F(BrokerTest, NoReportIsGoodWhileAValueOfItsPollWasRefused) {
    Producer& nas = world.producer("nas");
    nas.value("a", "1");
    nas.good_report({"a"});
    const Wall first = world.now.wall;
    for (char key = 'b'; key < 'b' + 12; ++key) {
        nas.value(std::string(1, key), large(key), false, "more", "");
    }
    world.advance(Millis{500});
    world.seen();
    nas.value("a", large('a'));
    nas.good_report({"a"});
    EXPECT_THAT(world.seen("jobs"),
                ElementsAre(testing::StartsWith("gap jobs"),
                            testing::StartsWith("transition jobs stale:STATE_FULL")));
    const auto poll = [&] { return world.broker->polls(world.now).front(); };
    EXPECT_EQ(poll().age.source, "broker");
    EXPECT_EQ(poll().age.as_of->wall, first);

    world.start();  // It is remembered: the producer does not send again what did not change.
    world.advance(Millis{1'500});
    nas.good_report({"a"});
    EXPECT_EQ(poll().age.reason, "STATE_FULL");
    EXPECT_EQ(poll().age.as_of->wall, first);

    nas.value("a", "2");
    nas.good_report({"a"});
    EXPECT_EQ(poll().age.quality, Quality::kLive);
}

/// What an earlier version committed, without a bound.
storage::Loaded too_much() {
    storage::Loaded loaded;
    loaded.epoch = std::string(32, 'e');
    for (char key = 'a'; key < 'a' + 16; ++key) {
        Message value;
        value.kind = Kind::kValue;
        value.origin = "nas";
        value.topic = "big";
        value.key = std::string(1, key);
        value.seq = value.pos = ++loaded.pos;
        value.data = std::make_shared<const std::string>(
            std::string(key == 'c' || key == 'd' ? 8'000'000 : 3'100'000, key));
        loaded.values.push_back(std::move(value));
    }
    return loaded;
}

TEST_F(BrokerTest, ASnapshotOfMoreThanEdgesTakeLeavesTheLargestOut) {
    Broker broker(too_much(), world, Random(1));
    world.hold_commits = true;
    broker.on_request("edge", protocol::SnapshotRequest{1}, world.now);
    world.settle();
    EXPECT_EQ(keys_of(std::get<protocol::Snapshot>(world.answers.back())), "abefghijklmnop");
    EXPECT_EQ(broker.counts().left_out, 2u);
}

TEST_F(BrokerTest, GarbageIsCountedAndHarmless) {
    world.broker->on_request("edge", protocol::Unknown{}, world.now);
    EXPECT_EQ(1U, world.broker->counts().unreadable);
    world.producer("nas").event("1");
    EXPECT_THAT(world.seen(), ElementsAre("alert 1 seq1 pos1"));
}

}  // namespace
}  // namespace sigmacast::broker
