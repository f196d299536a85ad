// The repair socket's messages: each arrives whole, and broken ones are refused.
#include "common/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/value.hpp>
#include <string>

#include "common/codec.h"
#include "common/random.h"

namespace sigmacast::protocol {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;

const Now kHere{Mono{Millis{50'000}}, Wall{Millis{1'795'219'104'912}}};
const Now kThere{Mono{Millis{9'000'000}}, Wall{Millis{1'795'219'104'990}}};

Bytes data(std::string_view json) {
    return std::make_shared<const std::string>(to_msgpack(parse_json(json).value()));
}

template <class T>
T sent(const T& message) {
    return std::get<T>(protocol::decode(protocol::encode(message, kHere.mono), kThere).value());
}

Error refused(const Frames& frames) {
    const auto result = protocol::decode(frames, kThere);
    EXPECT_FALSE(result);
    return result ? Error{} : result.error();
}
Error refused(std::string_view json) {
    return refused(Frames{*data(json)});
}

Message record(std::uint64_t seq) {
    Message message;
    message.topic = "system.status";
    message.origin = "nas";
    message.seq = seq;
    message.age.as_of = AsOf{kHere.wall, kHere.mono - Millis{40}};
    message.data = data(R"({"cpu_usage":1})");
    return message;
}

Range range_of(sequence::Range range, std::vector<Message> items) {
    Range message;
    message.range = range;
    message.items = std::move(items);
    return message;
}

TEST(RepairMessage, HelloArrivesWhole) {
    const Hello hello{.origin = "nas",
                      .instance = "abc",
                      .epoch = 7,
                      .first = false,
                      .polls = {{"agents.list", "agent.status", Millis{5000}, Millis{3000}}}};
    const Hello got = sent(hello);
    EXPECT_EQ(got.origin, "nas");
    EXPECT_EQ(got.instance, "abc");
    EXPECT_EQ(got.epoch, 7u);
    EXPECT_FALSE(got.first);
    ASSERT_EQ(got.polls.size(), 1u);
    EXPECT_EQ(got.polls[0].name, "agents.list");
    EXPECT_EQ(got.polls[0].topic, "agent.status");
    EXPECT_EQ(got.polls[0].interval, Millis{5000});
    EXPECT_EQ(got.polls[0].deadline, Millis{3000});
    EXPECT_TRUE(
        sent(Hello{.origin = "nas", .instance = "", .epoch = 1, .first = true, .polls = {}}).first);
}

TEST(RepairMessage, WelcomeArrivesWhole) {
    const Welcome got = sent(Welcome{.epoch = 8,
                                     .streams = {{"system.status", 55}},
                                     .keys = {{"compression.update", "jobs", "j1", data("{}")},
                                              {"storage.update", "pools", "pools", nullptr}}});
    EXPECT_EQ(got.epoch, 8u);
    ASSERT_EQ(got.streams.size(), 1u);
    EXPECT_EQ(got.streams[0].topic, "system.status");
    EXPECT_EQ(got.streams[0].seq, 55u);
    ASSERT_EQ(got.keys.size(), 2u);
    EXPECT_EQ(got.keys[0].topic, "compression.update");
    EXPECT_EQ(got.keys[0].poll, "jobs");
    EXPECT_EQ(got.keys[0].key, "j1");
    EXPECT_EQ(*got.keys[0].data, "\x80");
    EXPECT_FALSE(got.keys[1].data);
}

TEST(RepairMessage, NoFrameOfAWelcomeGrowsWithWhatIsLiveAndTheWholeIsBounded) {
    const auto large = std::make_shared<const std::string>(std::string(4u << 20, '\x80'));
    Welcome welcome{.epoch = 8, .streams = {}, .keys = {}};
    for (int i = 0; i < 10; ++i) {
        welcome.keys.push_back({"t", "p", std::to_string(i), large});
    }
    std::size_t whole = 0;
    for (const std::string& frame : protocol::encode(welcome, kHere.mono)) {
        EXPECT_LE(frame.size(), 4u << 20);
        whole += frame.size();
    }
    EXPECT_LE(whole, kWelcomeDataMax + 1'000);
    const Welcome got = sent(welcome);
    ASSERT_EQ(got.keys.size(), 10u) << "every key is named";
    EXPECT_EQ(got.keys[7].data->size(), large->size());
    EXPECT_EQ(got.keys[9].key, "9");
    EXPECT_FALSE(got.keys[9].data);
}

TEST(RepairMessage, TheSmallOnesArriveWhole) {
    EXPECT_EQ(sent(Conflict{9}).floor, 9u);
    const Sync sync = sent(Sync{"nas", "abc", 3});
    EXPECT_EQ(sync.origin, "nas");
    EXPECT_EQ(sync.instance, "abc");
    EXPECT_EQ(sync.epoch, 3u);
    const Durable durable = sent(Durable{3, {{"t", 4}}});
    EXPECT_EQ(durable.epoch, 3u);
    EXPECT_EQ(durable.streams.at(0).seq, 4u);
    sent(Unknown{});
    EXPECT_EQ(sent(Refused{"may not"}).why, "may not");
    const SnapshotRequest request = sent(SnapshotRequest{12, "e", 77});
    EXPECT_EQ(request.id, 12u);
    EXPECT_EQ(request.epoch, "e");
    EXPECT_EQ(request.pos, 77u);
    EXPECT_EQ(sent(SnapshotRequest{12}).epoch, "") << "an edge that was sent nothing yet";
    const Ask ask = sent(Ask{5, "nas", "t", {3, 9}});
    EXPECT_EQ(ask.id, 5u);
    EXPECT_EQ(ask.origin, "nas");
    EXPECT_EQ(ask.topic, "t");
    EXPECT_EQ(ask.range, (sequence::Range{3, 9}));
}

TEST(RepairMessage, ARangeArrivesWithItsRecords) {
    const Range got = sent(Range{.id = 5,
                                 .origin = "nas",
                                 .topic = "t",
                                 .epoch = "e",
                                 .range = {3, 9},
                                 .superseded = {{3, 4}, {6, 7}},
                                 .newest = 11,
                                 .items = {record(5), record(8)},
                                 .unreadable = 0});
    EXPECT_EQ(got.id, 5u);
    EXPECT_EQ(got.origin, "nas");
    EXPECT_EQ(got.topic, "t");
    EXPECT_EQ(got.epoch, "e");
    EXPECT_EQ(got.range, (sequence::Range{3, 9}));
    EXPECT_THAT(got.superseded, ElementsAre(sequence::Range{3, 4}, sequence::Range{6, 7}));
    EXPECT_EQ(got.newest, 11u);
    ASSERT_EQ(got.items.size(), 2u);
    EXPECT_EQ(got.items[1].seq, 8u);
    EXPECT_EQ(got.items[1].topic, "system.status");
    EXPECT_EQ(*got.items[1].data, *data(R"({"cpu_usage":1})"));
    EXPECT_EQ(elapsed(got.items[1].age.as_of->mono, kThere.mono), Millis{40});
    EXPECT_EQ(got.unreadable, 0u);
}

TEST(RepairMessage, AnEmptyRangeStaysEmpty) {
    EXPECT_EQ(sent(range_of({5, 0}, {})).range, (sequence::Range{5, 0}));
}

TEST(RepairMessage, ASnapshotArrivesWithItsRecords) {
    PollState poll;
    poll.origin = "nas";
    poll.report.poll = "agents.list";
    poll.age.quality = Quality::kStale;
    const Snapshot got = sent(Snapshot{.id = 2,
                                       .epoch = "0123",
                                       .pos = 77,
                                       .streams = {{"nas", "system.status", 6}},
                                       .polls = {poll},
                                       .values = {record(6)},
                                       .unreadable = 0});
    EXPECT_EQ(got.id, 2u);
    EXPECT_EQ(got.epoch, "0123");
    EXPECT_EQ(got.pos, 77u);
    EXPECT_EQ(got.streams.at(0).seq, 6u);
    EXPECT_EQ(got.polls.at(0).report.poll, "agents.list");
    EXPECT_EQ(got.polls.at(0).age.quality, Quality::kStale);
    EXPECT_EQ(got.values.at(0).seq, 6u);
}

TEST(RepairMessage, HistoryIsAskedForAndArrivesWithItsRecordsAndFloors) {
    const HistoryRequest request = sent(HistoryRequest{3, "0123", 77});
    EXPECT_EQ(request.id, 3u);
    EXPECT_EQ(request.epoch, "0123");
    EXPECT_EQ(request.from, 77u);
    const History got = sent(History{.id = 3,
                                     .epoch = "0123",
                                     .from = 77,
                                     .to = 90,
                                     .pos = 200,
                                     .floors = {{"nas", "rpc_error", 80}},
                                     .items = {record(5), record(8)},
                                     .unreadable = 0});
    EXPECT_EQ(got.id, 3u);
    EXPECT_EQ(got.epoch, "0123");
    EXPECT_EQ(got.from, 77u);
    EXPECT_EQ(got.to, 90u);
    EXPECT_EQ(got.pos, 200u);
    ASSERT_EQ(got.floors.size(), 1u);
    EXPECT_EQ(got.floors[0].origin, "nas");
    EXPECT_EQ(got.floors[0].topic, "rpc_error");
    EXPECT_EQ(got.floors[0].pos, 80u);
    ASSERT_EQ(got.items.size(), 2u);
    EXPECT_EQ(got.items[1].seq, 8u);
}

TEST(RepairMessage, APoisonRecordIsLeftOutAndCounted) {
    Frames frames =
        protocol::encode(range_of({1, 3}, {record(1), record(2), record(3)}), kHere.mono);
    frames[3] = "\xC1";
    const Range got = std::get<Range>(protocol::decode(frames, kThere).value());
    ASSERT_EQ(got.items.size(), 2u);
    EXPECT_EQ(got.items[1].seq, 3u);
    EXPECT_EQ(got.unreadable, 1u);
}

TEST(RepairWire, AnAskHasTheseBytes) {
    EXPECT_EQ(protocol::encode(Ask{5, "nas", "t", {3, 300}}, kHere.mono).at(0),
              "\x87\xA1v\x01\xA1t\xA3"
              "ask\xA2id\x05\xA6origin\xA3nas\xA5topic\xA1t\xA4"
              "from\x03"
              "\xA2to\xCD\x01\x2C"s);
}

TEST(BrokenRepairMessage, IsRefused) {
    EXPECT_EQ(refused(Frames{}).code, Errc::kInvalid);
    EXPECT_EQ(refused(Frames{""}).code, Errc::kInvalid);
    EXPECT_EQ(refused(R"({"t":"sync"})").code, Errc::kInvalid);
    EXPECT_EQ(refused(R"({"v":1})").code, Errc::kInvalid);
    EXPECT_THAT(refused(R"({"v":1,"t":"other"})").message, HasSubstr("repair message.t"));
    EXPECT_THAT(refused(R"({"v":1,"t":"ask","id":"x"})").message, HasSubstr("repair message.id"));
    EXPECT_EQ(refused(R"({"v":1,"t":"range","superseded":[[1]]})").code, Errc::kInvalid);
    EXPECT_EQ(refused(R"({"v":1,"t":"hello","origin":"a b"})").code, Errc::kInvalid);
}

TEST(BrokenRepairMessage, AHigherVersionIsRefusedNamingBoth) {
    const Error error = refused(R"({"v":9,"t":"sync"})");
    EXPECT_EQ(error.code, Errc::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr("version 9"));
}

TEST(BrokenRepairMessage, RecordsComeInPairsAndOnlyWhereTheyBelong) {
    Frames frames = protocol::encode(range_of({1, 1}, {record(1)}), kHere.mono);
    frames.pop_back();
    EXPECT_EQ(refused(frames).code, Errc::kInvalid);
    frames = protocol::encode(Welcome{}, kHere.mono);
    frames.insert(frames.end(), {"no map", ""});
    EXPECT_EQ(refused(frames).code, Errc::kInvalid);
    frames = protocol::encode(Unknown{}, kHere.mono);
    frames.insert(frames.end(), {"", ""});
    EXPECT_EQ(refused(frames).code, Errc::kInvalid);
}

TEST(BrokenRepairMessage, MoreRecordsThanTheBoundAreRefused) {
    Frames frames = protocol::encode(Snapshot{}, kHere.mono);
    frames.resize(1 + 2 * (kRecordsMax + 1));
    EXPECT_EQ(refused(frames).code, Errc::kTooLarge);
}

TEST(BrokenRepairMessage, AnyBytesAreSurvived) {
    const std::vector<Frames> good = {
        protocol::encode(Hello{.origin = "nas",
                               .instance = "i",
                               .epoch = 1,
                               .first = true,
                               .polls = {{"p", "t", Millis{1}, Millis{1}}}},
                         kHere.mono),
        protocol::encode(
            Welcome{.epoch = 8, .streams = {{"s", 5}}, .keys = {{"t", "p", "k", data("{}")}}},
            kHere.mono),
        protocol::encode(range_of({1, 9}, {record(5)}), kHere.mono)};
    Random random(20'261'122);
    for (int i = 0; i < 20'000; ++i) {
        Frames frames = good[random.between(0, good.size() - 1)];
        std::string& frame = frames[random.between(0, frames.size() - 1)];
        for (std::uint64_t flips = random.between(1, 4); flips > 0; --flips) {
            frame[random.between(0, frame.size() - 1)] = static_cast<char>(random.between(0, 255));
        }
        const auto result = protocol::decode(frames, kThere);
        if (result) {
            static_cast<void>(protocol::encode(*result, kThere.mono));
        }
    }
}

}  // namespace
}  // namespace sigmacast::protocol
