#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <ctime>
#include <string>

#include "ops/cli/backoff.h"
#include "ops/cli/format.h"
#include "ops/cli/remote.h"
#include "ops/cli/tail_view.h"

namespace sigmacast::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

const Paint kPlain(false);

class CliFormat : public testing::Test {
 protected:
    CliFormat() {
        setenv("TZ", "UTC", 1);
        tzset();
    }
    static Wall at(const char* text) { return parse_rfc3339(text).value(); }
    const Wall now_ = at("2026-11-20T01:02:15Z");
};

std::string summary_of(std::string_view topic, std::string_view data) {
    return summary(topic, boost::json::parse(data).get_object());
}

TEST_F(CliFormat, AgesReadAsAPersonWouldSayThem) {
    EXPECT_EQ("0.4 s", age_text(Millis(420)));
    EXPECT_EQ("12 s", age_text(Millis(12'900)));
    EXPECT_EQ("3 min 20 s", age_text(Millis(200'000)));
    EXPECT_EQ("2 h 5 min", age_text(Millis(7'500'000)));
    EXPECT_EQ("4 d 3 h", age_text(Millis(356'400'000)));
    EXPECT_EQ("0.0 s", age_text(Millis(-5)));
}

TEST_F(CliFormat, ACountdownRoundsUpSoThatZeroMeansNow) {
    EXPECT_EQ("4:48", countdown_text(Millis(287'001)));
    EXPECT_EQ("0:00", countdown_text(Millis(0)));
    EXPECT_EQ("0:01", countdown_text(Millis(1)));
    EXPECT_EQ("1:02:03", countdown_text(Millis(3'723'000)));
}

TEST_F(CliFormat, AStaleValueSaysWhySinceWhenHowOldAndWhenItIsTriedAgain) {
    AgeView age;
    age.quality = "stale";
    age.reason = "RPC_DISCONNECT";
    age.source = "engine";
    age.as_of = at("2026-11-20T01:02:03Z");
    age.age = Millis(12'000);
    age.retry_at = now_ + Millis(288'000);
    EXPECT_EQ("stale: RPC_DISCONNECT (engine), as of 01:02:03, 12 s old, retry in 4:48",
              quality_sentence(age, now_));
}

TEST_F(CliFormat, ATimeOfAnotherDayIsShownWithItsDate) {
    AgeView age;
    age.quality = "stale";
    age.as_of = at("2026-11-18T01:02:03Z");
    EXPECT_EQ("stale, as of 2026-11-18 01:02:03", quality_sentence(age, now_));
}

TEST_F(CliFormat, NothingThatArrivesCanSteerTheTerminal) {
    EXPECT_EQ("a\xEF\xBF\xBD[31mb", clean("a\x1b[31mb"));
    EXPECT_EQ("\xEF\xBF\xBDx", clean("\xC2\x9Bx"));  // The one-character CSI.
    EXPECT_EQ("gr\xC3\xBC\xC3\x9F", clean("gr\xC3\xBC\xC3\x9F"));
    EXPECT_EQ("aaaa\xE2\x80\xA6", clean("aaaaaaaa", 4));
    EXPECT_THAT(summary_of("x", "{\"a\":\"\\u001b]0;title\\u0007\"}"), Not(HasSubstr("\x1b")));
}

TEST_F(CliFormat, ColoursAreForTerminalsThatWantThem) {
    EXPECT_TRUE(wants_color(true, nullptr, "xterm"));
    EXPECT_TRUE(wants_color(true, "", nullptr));
    EXPECT_FALSE(wants_color(true, "1", "xterm"));
    EXPECT_FALSE(wants_color(true, nullptr, "dumb"));
    EXPECT_FALSE(wants_color(false, nullptr, "xterm"));
    EXPECT_EQ("live", kPlain.quality("live", "live"));
    EXPECT_EQ("\x1b[33mstale\x1b[0m", Paint(true).quality("stale", "stale"));
}

TEST_F(CliFormat, KnownTopicsAreSummedUpByWhatMatters) {
    EXPECT_EQ(
        "nas, cpu 12.3 %, memory 45.0 %, load 0.42, up 1 h 1 min",
        summary_of(
            "system.status",
            R"({"hostname":"nas","cpu_usage":12.34,"memory_pct":45,"load_average":{"load1":0.42},
                             "uptime":3661,"timestamp":1})"));
    EXPECT_EQ("1 running, 2 pending, 3 in all",
              summary_of("compression.update",
                         R"({"total_running":1,"total_pending":2,"total_jobs":3})"));
    EXPECT_EQ("open, 5 failures in a row, refused",
              summary_of("breaker.status",
                         R"({"state":"open","consecutive_failures":5,"last_error":"refused"})"));
    EXPECT_EQ("1 pool, tank ONLINE 31 %",
              summary_of("storage.update",
                         R"({"pools":[{"name":"tank","state":"ONLINE","capacity":31}]})"));
}

TEST_F(CliFormat, UnknownTopicsShowTheirFirstMembers) {
    EXPECT_EQ("text hi, n 3, list [2], none -",
              summary_of("note", R"({"timestamp":9,"text":"hi","n":3,"list":[1,2],"none":null})"));
}

TEST_F(CliFormat, ColumnsOfATableStandUnderEachOther) {
    EXPECT_EQ("a     b\nlong  x\ns     y\n",
              table({"a", "b"}, {{{"long", {}}, {"x", {}}}, {{"s", {}}, {"y", {}}}}, kPlain));
}

TEST_F(CliFormat, StateIsReadFromAnEdgesAnswer) {
    const auto rows = state_rows(R"({"uplink":"up","values":[
        {"type":"b","data":{"x":1},"origin":"o","quality":"stale","age_ms":1500,"reason":"POLL_SILENT"},
        {"type":"a","data":{},"origin":"o","key":"k","quality":"live","age_ms":0}],
        "sources":[{"origin":"o","poll":"b","topic":"b","quality":"stale"}]})");
    ASSERT_TRUE(rows);
    ASSERT_EQ(2U, rows->size());
    EXPECT_EQ("a", rows->at(0).topic);
    EXPECT_EQ("k", rows->at(0).key);
    EXPECT_EQ("stale", rows->at(1).age.quality);
    EXPECT_EQ(Millis(1500), rows->at(1).age.age);
    EXPECT_EQ("x 1", rows->at(1).summary);
    EXPECT_FALSE(state_rows("<html>"));
}

TEST_F(CliFormat, TheWaitBeforeAReconnectDoublesUpToItsMostAndVaries) {
    Random random(1);
    Backoff backoff;
    Millis step = Backoff::kFirst;
    for (int i = 0; i < 12; ++i) {
        const Millis wait = backoff.next(random);
        EXPECT_GE(wait, step / 2);
        EXPECT_LE(wait, step);
        step = std::min(step * 2, Backoff::kMost);
    }
    backoff.reset();
    EXPECT_LE(backoff.next(random), Backoff::kFirst);
}

class Tail : public CliFormat {
 protected:
    TailLine message(std::string_view text) { return view_.on_message(text, now_); }
    TailView view_{kPlain, {}};
    const std::string value_ =
        R"({"type":"system.status","timestamp":"2026-11-20T01:02:15.000Z","data":{"cpu_usage":5},)"
        R"("origin":"nas","poll":"system.status","seq":4,"pos":9,"epoch":"e","quality":"live",)"
        R"("as_of":"2026-11-20T01:02:14.000Z","age_ms":1000})";
    const std::string stale_ =
        R"({"type":"transition","data":{"topic":"system.status","poll":"system.status","keys":[]},)"
        R"("origin":"nas","quality":"stale","as_of":"2026-11-20T01:02:03Z","age_ms":12000,)"
        R"("reason":"RPC_DISCONNECT","source":"engine","retry_at":"2026-11-20T01:07:03Z"})";
    const std::string live_ =
        R"({"type":"transition","data":{"topic":"system.status","poll":"system.status","keys":[]},)"
        R"("origin":"nas","quality":"live","as_of":"2026-11-20T01:02:14Z","age_ms":1000})";
};

TEST_F(Tail, AValueIsOneLineWithTimeTopicAgeAndQuality) {
    const TailLine line = message(value_);
    ASSERT_TRUE(line.text);
    EXPECT_TRUE(line.counts);
    EXPECT_EQ("01:02:15  live        1.0 s  system.status                 cpu 5.0 %", *line.text);
}

TEST_F(Tail, ATransitionIsASentence) {
    const TailLine line = message(stale_);
    ASSERT_TRUE(line.text);
    EXPECT_TRUE(line.counts);
    EXPECT_EQ(
        "01:02:15  stale        12 s  system.status                 RPC_DISCONNECT: the engine "
        "cannot be reached; last answer 01:02:03; next try in 4:48",
        *line.text);
}

TEST_F(Tail, ATransitionIsToldOnceWhicheverWayItIsHeardOf) {
    // A value brings its quality; what the broker says of the poll after it is no news.
    EXPECT_TRUE(message(value_).text);
    EXPECT_FALSE(message(live_).text);
    EXPECT_TRUE(message(stale_).text);
    EXPECT_FALSE(message(stale_).text) << "as an edge tells it again that was cut off";
    const TailLine back = message(live_);
    ASSERT_TRUE(back.text);
    EXPECT_THAT(*back.text, HasSubstr("live again"));
    std::string other = stale_;
    other.replace(other.find("RPC_DISCONNECT"), 14, "PRODUCER_SILENT");
    EXPECT_TRUE(message(stale_).text);
    EXPECT_TRUE(message(other).text) << "another reason is news";
}

TEST_F(Tail, ATransitionOfSomeKeysIsComparedWithWhatWasSaidOfThese) {
    const auto of_key = [](std::string text) {
        return text.replace(text.find("[]"), 2, "[\"a\"]");
    };
    EXPECT_TRUE(message(stale_).text);
    const TailLine one = message(of_key(live_));
    ASSERT_TRUE(one.text);
    EXPECT_THAT(*one.text, HasSubstr("system.status/a "));
    EXPECT_FALSE(message(of_key(live_)).text);
    EXPECT_TRUE(message(of_key(stale_)).text);
    EXPECT_TRUE(message(of_key(live_)).text);
    EXPECT_TRUE(message(live_).text) << "and the others are live now";
    std::string value = value_;
    value.replace(value.find("\"seq\""), 5, "\"key\":\"a\",\"seq\"");
    EXPECT_TRUE(message(of_key(stale_)).text);
    EXPECT_TRUE(message(value).text);
    EXPECT_FALSE(message(of_key(live_)).text) << "the value has told it";
}

TEST_F(Tail, AMethodThatTheEngineLacksIsNoFault) {
    const TailLine line = message(
        R"({"type":"transition","data":{"topic":"agent.status","poll":"agents.list"},"origin":"nas",)"
        R"("quality":"down","reason":"METHOD_NOT_FOUND","source":"engine"})");
    ASSERT_TRUE(line.text);
    EXPECT_THAT(*line.text, HasSubstr("not offered by this engine (agents.list)"));
    EXPECT_THAT(*line.text, Not(HasSubstr("down")));
}

TEST_F(Tail, BreakersThatAreClosedAreLeftOutOfTheStartUnlessTheyWereAskedFor) {
    const char* closed =
        R"({"type":"breaker.status","data":{"name":"engine","state":"closed"},"origin":"nas",)"
        R"("key":"engine","seq":1,"pos":1,"epoch":"e","quality":"live","age_ms":5,"replay":true})";
    EXPECT_FALSE(message(closed).text);
    TailView chosen(kPlain, {.everything = false});
    EXPECT_TRUE(chosen.on_message(closed, now_).text);
    std::string open = closed;
    open.replace(open.find("closed"), 6, "open");
    open.replace(open.find("\"pos\":1"), 7, "\"pos\":2");
    EXPECT_TRUE(message(open).text);
}

TEST_F(Tail, WhatWillNotComeIsSaid) {
    const TailLine line = message(
        R"({"type":"subscribed","data":{"topics":{"nas.local":{"result":"unknown"},)"
        R"("secret":{"result":"denied"},"system.status":{"result":"snapshot","count":1}}}})");
    ASSERT_TRUE(line.text);
    EXPECT_FALSE(line.counts);
    EXPECT_THAT(*line.text, HasSubstr("nas.local: nobody has published this topic yet"));
    EXPECT_THAT(*line.text, HasSubstr("secret: the token does not allow it"));
    EXPECT_THAT(*line.text, Not(HasSubstr("system.status")));
}

TEST_F(Tail, AnotherOriginIsNamed) {
    EXPECT_THAT(message(value_).text.value(), Not(HasSubstr("@")));
    std::string other = value_;
    other.replace(other.find("\"nas\""), 5, "\"attic\"");
    EXPECT_THAT(message(other).text.value(), HasSubstr("system.status@attic "));
}

TEST_F(Tail, WhatWasShownIsNotRepeatedAfterAReconnect) {
    EXPECT_TRUE(message(value_).text);
    view_.on_disconnect();
    EXPECT_FALSE(message(value_).text);
}

TEST_F(Tail, TheSameValueIsShownAgainWhereItsQualityChanged) {
    EXPECT_TRUE(message(value_).text);
    std::string stale = value_;
    stale.replace(stale.find("\"live\""), 6, "\"stale\"");
    EXPECT_TRUE(message(stale).text);
}

TEST_F(Tail, APositionOfAnotherLogEpochIsNew) {
    EXPECT_TRUE(message(value_).text);
    std::string restored = value_;
    restored.replace(restored.find("\"e\""), 3, "\"f\"");
    EXPECT_TRUE(message(restored).text);
}

TEST_F(Tail, AnOlderPositionDoesNotHideANewerOne) {
    std::string older = value_;
    older.replace(older.find("\"pos\":9"), 7, "\"pos\":8");
    EXPECT_TRUE(message(value_).text);
    EXPECT_FALSE(message(older).text);
    EXPECT_FALSE(message(value_).text);
}

TEST_F(Tail, HeartbeatsAndTicksAreNotShownAndDoNotCount) {
    for (const char* text :
         {R"({"type":"heartbeat","data":{}})", R"({"type":"subscribed","data":{"topics":{}}})",
          R"({"type":"tick","data":{"topic":"a","poll":"a"},"quality":"live"})"}) {
        const TailLine line = message(text);
        EXPECT_FALSE(line.text) << *line.text;
        EXPECT_FALSE(line.counts);
    }
}

TEST_F(Tail, JsonPassesEveryMessageOnAsItCame) {
    TailView view(kPlain, {.json = true});
    for (const std::string& text :
         {std::string(R"({"type":"heartbeat","data":{}})"), value_, value_}) {
        EXPECT_EQ(text, view.on_message(text, now_).text);
    }
}

TEST_F(Tail, AGoodbyeSaysOnceHowLongToStayAway) {
    message(
        R"({"type":"goodbye","data":{"code":1001,"reason":"shutting_down","reconnect_in_ms":750}})");
    EXPECT_EQ(Millis(750), view_.take_reconnect_hint());
    EXPECT_FALSE(view_.take_reconnect_hint());
}

TEST_F(Tail, GarbageIsShownCleaned) {
    EXPECT_THAT(message("\x1b[2Jnope").text.value(), Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace sigmacast::cli
