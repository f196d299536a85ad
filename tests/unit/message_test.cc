// The bus's three frames: nothing is lost on the way, ages are carried as durations, and whatever
// is broken is refused.
#include "common/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/value.hpp>
#include <string>

#include "common/codec.h"
#include "common/random.h"

namespace sigmacast {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;

Bytes data(std::string_view json) {
    return std::make_shared<const std::string>(to_msgpack(parse_json(json).value()));
}
std::string msgpack(std::string_view json) {
    return *data(json);
}

std::string hex(std::string_view bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) {
        text += kDigits[static_cast<unsigned char>(c) >> 4];
        text += kDigits[static_cast<unsigned char>(c) & 15];
    }
    return text;
}

// Two machines: their boot clocks have nothing to do with each other.
const Wall kWall{Millis{1'795'219'104'912}};
const Now kHere{Mono{Millis{50'000}}, kWall};
const Now kThere{Mono{Millis{9'000'000}}, kWall + Millis{70}};

AsOf made_before(Millis age) {
    return {kWall - age, kHere.mono - age};
}

Message value() {
    Message message;
    message.kind = Kind::kValue;
    message.topic = "system.status";
    message.origin = "nas";
    message.poll = "system.status";
    message.epoch = "7";
    message.seq = 300;
    message.age.quality = Quality::kLive;
    message.age.as_of = made_before(Millis{1200});
    message.at = kWall;
    message.data = data(R"({"cpu_usage":12.5})");
    return message;
}

Report failed_report() {
    Report report;
    report.poll = "agents.list";
    report.topic = "agent.status";
    report.as_of = made_before(Millis{65'000});
    report.code = "RPC_DISCONNECT";
    report.source = "engine";
    report.message = "connection refused";
    report.failures = 3;
    report.retry_at = kWall + Millis{300'000};
    report.interval = Millis{5000};
    report.deadline = Millis{3000};
    return report;
}

Message carrying(Kind kind, decltype(Message::detail) detail) {
    Message message;
    message.kind = kind;
    message.topic = "t";
    message.origin = "nas";
    message.seq = 1;
    message.detail = std::move(detail);
    return message;
}

Message sent(const Message& message) {
    return decode(encode(message, kHere.mono), kThere).value();
}

Error refused(const Frames& frames) {
    const auto result = decode(frames, kThere);
    EXPECT_FALSE(result);
    return result ? Error{} : result.error();
}
Error refused_header(std::string_view json) {
    return refused({"t\0nas"s, msgpack(json), ""});
}

TEST(MessageOnTheBus, AValueArrivesWhole) {
    Message message = value();
    message.key = "pools";
    message.pos = 1ull << 40;
    message.final = true;
    message.durable = false;
    message.after = 299;
    message.flow = {77, 2};
    message.age.quality = Quality::kStale;
    message.age.uncertain = true;
    message.age.reason = "RPC_DISCONNECT";
    message.age.source = "engine";
    message.age.retry_at = kWall + Millis{5};
    const Message got = sent(message);
    EXPECT_EQ(got.kind, Kind::kValue);
    EXPECT_EQ(got.topic, "system.status");
    EXPECT_EQ(got.origin, "nas");
    EXPECT_EQ(got.key, "pools");
    EXPECT_EQ(got.poll, "system.status");
    EXPECT_EQ(got.epoch, "7");
    EXPECT_EQ(got.seq, 300u);
    EXPECT_EQ(got.pos, 1ull << 40);
    EXPECT_TRUE(got.final);
    EXPECT_FALSE(got.durable);
    EXPECT_EQ(got.after, 299u);
    EXPECT_EQ(got.flow.run, 77u);
    EXPECT_EQ(got.flow.nth, 2u);
    EXPECT_EQ(got.at, kWall);
    EXPECT_EQ(got.age.quality, Quality::kStale);
    EXPECT_TRUE(got.age.uncertain);
    EXPECT_EQ(got.age.reason, "RPC_DISCONNECT");
    EXPECT_EQ(got.age.source, "engine");
    EXPECT_EQ(got.age.retry_at, kWall + Millis{5});
    ASSERT_TRUE(got.data);
    EXPECT_EQ(*got.data, *message.data);
}

TEST(MessageOnTheBus, DefaultsArriveAsDefaults) {
    Message message;
    message.topic = "t";
    message.origin = "nas";
    const Message got = sent(message);
    EXPECT_EQ(got.age.quality, Quality::kInitial);
    EXPECT_FALSE(got.age.as_of);
    EXPECT_FALSE(got.age.retry_at);
    EXPECT_TRUE(got.durable);
    EXPECT_FALSE(got.final);
    EXPECT_EQ(got.at, Wall{});
    EXPECT_FALSE(got.data);
    EXPECT_EQ(encode(message, kHere.mono)[1], msgpack(R"({"v":1,"k":1})"));
}

TEST(MessageOnTheBus, AnAgeGrowsByTheStayHereAndNotByTheClocksOfTwoMachines) {
    const Message message = value();
    const Frames frames = encode(message, kHere.mono + Millis{300});
    const Message got = decode(frames, kThere).value();
    ASSERT_TRUE(got.age.as_of);
    EXPECT_EQ(elapsed(got.age.as_of->mono, kThere.mono), Millis{1500});
    EXPECT_EQ(got.age.as_of->wall, message.age.as_of->wall);
}

TEST(MessageOnTheBus, APartOfAMillisecondMakesAValueOlderNotYounger) {
    const Frames frames = encode(value(), kHere.mono + Micros{1});
    EXPECT_EQ(elapsed(decode(frames, kThere)->age.as_of->mono, kThere.mono), Millis{1201});
}

TEST(MessageOnTheBus, AnAgeIsNeverNegative) {
    const Frames frames = encode(value(), kHere.mono - Millis{60'000});
    EXPECT_EQ(decode(frames, kThere)->age.as_of->mono, kThere.mono);
}

TEST(MessageOnTheBus, AnAgeMayReachBackBeforeThisMachinesBoot) {
    const Now booted{Mono{Millis{10}}, kWall};
    const Message got = decode(encode(value(), kHere.mono), booted).value();
    EXPECT_EQ(elapsed(got.age.as_of->mono, booted.mono), Millis{1200});
}

TEST(MessageOnTheBus, AFailedReportArrivesWhole) {
    const Message got = sent(carrying(Kind::kReport, failed_report()));
    const Report& report = got.report();
    EXPECT_EQ(report.poll, "agents.list");
    EXPECT_EQ(report.topic, "agent.status");
    EXPECT_FALSE(report.ok);
    EXPECT_EQ(elapsed(report.as_of->mono, kThere.mono), Millis{65'000});
    EXPECT_EQ(report.as_of->wall, kWall - Millis{65'000});
    EXPECT_EQ(report.code, "RPC_DISCONNECT");
    EXPECT_EQ(report.source, "engine");
    EXPECT_EQ(report.message, "connection refused");
    EXPECT_EQ(report.failures, 3u);
    EXPECT_EQ(report.retry_at, kWall + Millis{300'000});
    EXPECT_FALSE(report.unsupported);
    EXPECT_FALSE(report.keys);
    EXPECT_TRUE(report.complete);
    EXPECT_EQ(report.interval, Millis{5000});
    EXPECT_EQ(report.deadline, Millis{3000});
}

TEST(MessageOnTheBus, AGoodReportArrivesWhole) {
    Report report;
    report.ok = true;
    report.unsupported = true;
    report.keys = {"a", ""};
    report.complete = false;
    report.after = {{"compression.update", 17}, {"rpc_error", 2}};
    const Report got = sent(carrying(Kind::kReport, report)).report();
    EXPECT_TRUE(got.ok);
    EXPECT_TRUE(got.unsupported);
    EXPECT_THAT(got.keys.value(), ElementsAre("a", ""));
    EXPECT_FALSE(got.complete);
    ASSERT_EQ(got.after.size(), 2u);
    EXPECT_EQ(got.after[0].topic, "compression.update");
    EXPECT_EQ(got.after[0].seq, 17u);
}

TEST(MessageOnTheBus, NoKeysAndAnEmptyListOfKeysAreNotTheSame) {
    Report report;
    EXPECT_FALSE(sent(carrying(Kind::kReport, report)).report().keys);
    report.keys.emplace();
    const auto keys = sent(carrying(Kind::kReport, report)).report().keys;
    ASSERT_TRUE(keys);
    EXPECT_TRUE(keys->empty());
}

TEST(MessageOnTheBus, AHeadArrivesWhole) {
    Head head;
    head.pos = 99;
    head.streams = {{"nas", "system.status", 5}, {"other", "x", 1ull << 33}};
    PollState poll;
    poll.origin = "nas";
    poll.report = failed_report();
    poll.report_seq = 12;
    poll.age.quality = Quality::kDown;
    poll.age.as_of = made_before(Millis{10});
    poll.age.reason = "POLL_SILENT";
    head.polls = {poll, PollState{}};
    const Head got = sent(carrying(Kind::kHead, head)).head();
    EXPECT_EQ(got.pos, 99u);
    ASSERT_EQ(got.streams.size(), 2u);
    EXPECT_EQ(got.streams[1].origin, "other");
    EXPECT_EQ(got.streams[1].topic, "x");
    EXPECT_EQ(got.streams[1].seq, 1ull << 33);
    ASSERT_EQ(got.polls.size(), 2u);
    EXPECT_EQ(got.polls[0].origin, "nas");
    EXPECT_EQ(got.polls[0].report_seq, 12u);
    EXPECT_EQ(got.polls[0].report.code, "RPC_DISCONNECT");
    EXPECT_EQ(elapsed(got.polls[0].report.as_of->mono, kThere.mono), Millis{65'000});
    EXPECT_EQ(got.polls[0].age.quality, Quality::kDown);
    EXPECT_EQ(got.polls[0].age.reason, "POLL_SILENT");
    EXPECT_EQ(elapsed(got.polls[0].age.as_of->mono, kThere.mono), Millis{10});
}

TEST(MessageOnTheBus, AGapAndATransitionArriveWhole) {
    const Gap gap = sent(carrying(Kind::kGap, Gap{44, "overflow"})).gap();
    EXPECT_EQ(gap.to, 44u);
    EXPECT_EQ(gap.why, "overflow");
    Message transition = carrying(Kind::kTransition, {});
    transition.keys = {"pools"};
    EXPECT_THAT(sent(transition).keys, ElementsAre("pools"));
}

TEST(MessageOnTheBus, TheTopicFrameIsTypeNulOrigin) {
    EXPECT_EQ(encode(value(), kHere.mono)[0], "system.status\0nas"s);
    EXPECT_EQ(report_topic("agents.list"), "poll.agents.list");
}

TEST(MessageOnTheBus, ARecordCarriesItsTopicAndOriginInItsHeader) {
    const Message message = value();
    const auto [header, body] = encode_record(message, kHere.mono);
    EXPECT_EQ(body, message.data);
    const Message got = decode_record(header, body, kThere).value();
    EXPECT_EQ(got.topic, "system.status");
    EXPECT_EQ(got.origin, "nas");
    EXPECT_EQ(got.data, body);
    EXPECT_EQ(elapsed(got.age.as_of->mono, kThere.mono), Millis{1200});
    EXPECT_FALSE(decode_record(header, nullptr, kThere)->data);
    EXPECT_FALSE(decode_record(header, std::make_shared<const std::string>(), kThere)->data);
}

// ---- The wire, byte by byte. A change here is a change of the protocol's version. ----

TEST(Wire, AValueHasTheseBytes) {
    const Frames frames = encode(value(), kHere.mono);
    EXPECT_EQ(hex(frames[0]), "73797374656d2e737461747573006e6173");
    EXPECT_EQ(hex(frames[1]),
              "89a17601a16b01a4706f6c6cad73797374656d2e737461747573a565706f6368a137a3736571cd012c"
              "a17101a561735f6f66cf000001a1fb659fe0a3616765cd04b0a26174cf000001a1fb65a490");
    EXPECT_EQ(hex(frames[2]), "81a96370755f7573616765cb4029000000000000");
}

TEST(Wire, AReportHasTheseBytes) {
    const Frames frames = encode(carrying(Kind::kReport, failed_report()), kHere.mono);
    EXPECT_EQ(hex(frames[1]),
              "84a17601a16b03a373657101a67265706f72748b"
              "a4706f6c6cab6167656e74732e6c697374"
              "a5746f706963ac6167656e742e737461747573"
              "a561735f6f66cf000001a1fb64a6a8"
              "a3616765cdfde8"
              "a4636f6465ae5250435f444953434f4e4e454354"
              "a6736f75726365a6656e67696e65"
              "a76d657373616765b2636f6e6e656374696f6e2072656675736564"
              "a86661696c7572657303"
              "a57265747279cf000001a1fb6a3870"
              "a8696e74657276616ccd1388"
              "a8646561646c696e65cd0bb8");
    EXPECT_EQ(frames[2], "");
}

// ---- What is refused ----

TEST(BrokenMessage, NeedsItsThreeFrames) {
    EXPECT_EQ(refused({}).code, Errc::kInvalid);
    EXPECT_EQ(refused({"t\0nas"s, msgpack(R"({"v":1,"k":1})")}).code, Errc::kInvalid);
    EXPECT_EQ(refused({"t\0nas"s, msgpack(R"({"v":1,"k":1})"), "", ""}).code, Errc::kInvalid);
}

TEST(BrokenMessage, NeedsATopicAndAnOriginThatCanBeShown) {
    const std::string header = msgpack(R"({"v":1,"k":1})");
    for (const std::string& topic :
         {"t"s, "\0nas"s, "t\0"s, "a b\0nas"s, "t\0n\nas"s, "t\0n\0as"s, "t\0n\xC3\xA4s"s,
          "t\0"s + std::string(129, 'x'), std::string(129, 'x') + "\0nas"s}) {
        EXPECT_EQ(refused({topic, header, ""}).code, Errc::kInvalid) << topic;
    }
    EXPECT_TRUE(decode({std::string(128, 'x') + "\0publish@nas"s, header, ""}, kThere));
}

TEST(BrokenMessage, AHigherVersionIsRefusedNamingBoth) {
    const Error error = refused_header(R"({"v":2,"k":1})");
    EXPECT_EQ(error.code, Errc::kUnsupported);
    EXPECT_THAT(error.message, HasSubstr("version 2"));
    EXPECT_THAT(error.message, HasSubstr("speaks 1"));
    EXPECT_EQ(refused_header(R"({"k":1})").code, Errc::kInvalid);
    EXPECT_EQ(refused_header(R"({"v":0,"k":1})").code, Errc::kInvalid);
}

TEST(BrokenMessage, UnknownMembersAreSkipped) {
    EXPECT_TRUE(
        decode({"t\0nas"s, msgpack(R"({"new":{"a":[1]},"v":1,"k":1,"z":null})"), ""}, kThere));
}

TEST(BrokenMessage, AMemberOfTheWrongTypeIsNamed) {
    const auto names = [](std::string_view json, std::string_view member) {
        const Error error = refused_header(json);
        EXPECT_EQ(error.code, Errc::kInvalid) << json;
        EXPECT_THAT(error.message, HasSubstr(std::string(member))) << json;
    };
    names(R"({"v":"1"})", "header.v");
    names(R"({"v":1,"k":9})", "header.k");
    names(R"({"v":1})", "header.k");
    names(R"({"v":1,"k":1,"seq":-1})", "header.seq");
    names(R"({"v":1,"k":1,"seq":1.5})", "header.seq");
    names(R"({"v":1,"k":1,"pos":"1"})", "header.pos");
    names(R"({"v":1,"k":1,"key":1})", "header.key");
    names(R"({"v":1,"k":1,"q":4})", "header.q");
    names(R"({"v":1,"k":1,"final":1})", "header.final");
    names(R"({"v":1,"k":1,"as_of":"now"})", "header.as_of");
    names(R"({"v":1,"k":1,"as_of":1,"age":18446744073709551615})", "header.age");
    names(R"({"v":1,"k":1,"at":18446744073709551615})", "header.at");
    names(R"({"v":1,"k":4,"keys":"a"})", "header.keys");
    names(R"({"v":1,"k":4,"keys":[1]})", "header.keys");
    names(R"({"v":1,"k":3})", "header.report");
    names(R"({"v":1,"k":3,"report":1})", "header.report");
    names(R"({"v":1,"k":3,"report":{"failures":4294967296}})", "header.report.failures");
    names(R"({"v":1,"k":3,"report":{"after":[["t"]]}})", "header.report.after");
    names(R"({"v":1,"k":3,"report":{"after":[[1,1]]}})", "header.report.after");
    names(R"({"v":1,"k":5,"head":{"streams":[["o","t","1"]]}})", "header.head.streams");
    names(R"({"v":1,"k":5,"head":{"polls":[{"report":{"ok":1}}]}})", "header.head.polls.report.ok");
    names(R"({"v":1,"k":6})", "header.gap");
}

TEST(BrokenMessage, AHeaderThatIsNoMapIsRefused) {
    for (const std::string& header :
         {""s, "\xC0"s, "\x91\x01"s, "\xC1"s, "\x81"s, "\x81\x01\x01"s, "\x80\x80"s}) {
        EXPECT_EQ(refused({"t\0nas"s, header, ""}).code, Errc::kInvalid) << hex(header);
    }
}

TEST(BrokenMessage, AHeaderOverALimitIsRefusedBeforeItCostsAnything) {
    const auto with = [](const std::string& value) {
        return refused({"t\0nas"s, "\x83\xA1v\x01\xA1k\x01\xA1x"s + value, ""}).code;
    };
    EXPECT_EQ(with("\xDD\x00\x01\x00\x01"s), Errc::kTooLarge);  // An array of 65,537.
    EXPECT_EQ(with("\xDE\x04\x01"s), Errc::kTooLarge);          // A map of 1,025.
    EXPECT_EQ(with("\xDB\x00\x40\x00\x01"s + std::string((4u << 20) + 1, 'x')),
              Errc::kTooLarge);                                          // A string of 4 MiB + 1.
    EXPECT_EQ(with(std::string(20, '\x91') + '\xC0'), Errc::kTooLarge);  // Twenty levels.
    EXPECT_EQ(with("\xC7\x01\x05z"s), Errc::kTooLarge);                  // An extension type.
}

TEST(BrokenMessage, ABodyMustBeOneMap) {
    const std::string header = msgpack(R"({"v":1,"k":1})");
    EXPECT_THAT(refused({"t\0nas"s, header, "\x90"}).message, HasSubstr("body"));
    EXPECT_EQ(refused({"t\0nas"s, header, "\x80\x80"}).code, Errc::kInvalid);
    EXPECT_EQ(refused({"t\0nas"s, header, std::string((4u << 20) + 1, '\x80')}).code,
              Errc::kTooLarge);
    const auto array = std::make_shared<const std::string>("\x90");
    const std::string record = encode_record(value(), kHere.mono).first;
    EXPECT_FALSE(decode_record(record, array, kThere));
}

TEST(BrokenMessage, AnyBytesAreSurvived) {
    Head head;
    head.streams = {{"nas", "system.status", 5}};
    head.polls = {
        PollState{.origin = "nas", .report = failed_report(), .report_seq = 1, .age = {}}};
    const std::vector<Frames> good = {encode(value(), kHere.mono),
                                      encode(carrying(Kind::kReport, failed_report()), kHere.mono),
                                      encode(carrying(Kind::kHead, head), kHere.mono)};
    Random random(20'261'121);
    for (int i = 0; i < 30'000; ++i) {
        Frames frames = good[random.between(0, good.size() - 1)];
        std::string& frame = frames[random.between(0, 9) == 0 ? 0 : 1];
        for (std::uint64_t flips = random.between(1, 4); flips > 0; --flips) {
            frame[random.between(0, frame.size() - 1)] = static_cast<char>(random.between(0, 255));
        }
        const auto result = decode(frames, kThere);
        if (result) {
            static_cast<void>(encode(*result, kThere.mono));
        }
    }
}

TEST(CheckName, SaysWhichNameAndWhy) {
    EXPECT_TRUE(check_name("origin", "publish@host"));
    EXPECT_THAT(check_name("origin", "").error().message, HasSubstr("origin"));
    EXPECT_THAT(check_name("topic", "a b").error().message, HasSubstr("topic"));
}

TEST(QualityText, IsWhatClientsSee) {
    EXPECT_EQ(to_string(Quality::kInitial), "initial");
    EXPECT_EQ(to_string(Quality::kLive), "live");
    EXPECT_EQ(to_string(Quality::kStale), "stale");
    EXPECT_EQ(to_string(Quality::kDown), "down");
}

}  // namespace
}  // namespace sigmacast
