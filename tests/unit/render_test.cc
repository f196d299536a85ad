#include "edge/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "edge/cache.h"
#include "edge_fixture.h"

namespace sigmacast::edge {
namespace {

using namespace testing;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Rendering : public ::testing::Test {
 protected:
    std::string render(const Message& message, std::optional<Age> age = {}) {
        value_ = *cache_.put(message);
        return render_value(*value_, age.value_or(value_->age), Dialect::kV1, clock_.now());
    }

    Clock clock_;
    Cache cache_;
    std::shared_ptr<const Value> value_;
};

TEST_F(Rendering, AnEnvelopeOpensWithTypeTimestampAndData) {
    const std::string text =
        render(value({.json = R"({"hostname":"vm","uptime":5})"}, clock_.now()));
    EXPECT_THAT(
        text,
        StartsWith(R"({"type":"system.status","timestamp":"2026-11-20T23:58:26.000Z",)"
                   R"("data":{"hostname":"vm","uptime":5,"timestamp":1795219106,"stale":false},)"
                   R"("origin":"nas","poll":"system.status","seq":1,"pos":101,"epoch":")"));
}

TEST_F(Rendering, AnEnvelopeNamesThePollThatFeedsItAndNoneWhereNoneDoes) {
    EXPECT_THAT(render(value({.key = "pools", .poll = "storage.pools.list"}, clock_.now())),
                HasSubstr(R"("key":"pools","poll":"storage.pools.list",)"));
    EXPECT_THAT(render(value({.poll = state_poll("system.status")}, clock_.now())),
                ::testing::Not(HasSubstr("poll")));
}

TEST_F(Rendering, AStaleValueKeepsItsFieldsAndSaysWhyAndSinceWhen) {
    const Message message = value({.json = R"({"hostname":"vm"})"}, clock_.now());
    const Age age = stale(clock_.now(), "RPC_DISCONNECT");
    clock_.advance(Millis{7'500});
    const auto json = boost::json::parse(render(message, age)).as_object();
    const auto& data = json.at("data").as_object();
    EXPECT_EQ(data.at("hostname"), "vm");
    EXPECT_EQ(data.at("stale"), true);
    EXPECT_EQ(data.at("error_code"), "RPC_DISCONNECT");
    EXPECT_EQ(data.at("last_update"), "2026-11-20T23:58:26.000Z");
    EXPECT_EQ(json.at("quality"), "stale");
    EXPECT_EQ(json.at("age_ms"), 7'500);
    EXPECT_EQ(json.at("source"), "engine");
}

TEST_F(Rendering, MembersOfTheDataThatTheEdgeWritesItselfAreNotWrittenTwice) {
    const Message message = value(
        {.json =
             R"({"timestamp":1,"stale":"mine","a":{"timestamp":2},"last_update":"x","b":[1,2]})"},
        clock_.now());
    const std::string text = render(message);
    EXPECT_THAT(text, HasSubstr(R"("data":{"a":{"timestamp":2},"b":[1,2],"timestamp":1795219106,)"
                                R"("stale":false})"));
}

TEST_F(Rendering, AnEventKeepsItsOwnErrorCodeAndHasNoStaleFlag) {
    const std::string text = render(event(
        {.topic = "rpc_error", .json = R"({"error_code":"SYSTEM_STATUS_FAILED"})"}, clock_.now()));
    EXPECT_THAT(text, HasSubstr(R"("error_code":"SYSTEM_STATUS_FAILED")"));
    EXPECT_THAT(text, ::testing::Not(HasSubstr("stale")));
}

TEST_F(Rendering, AnEmptyObjectStaysOne) {
    EXPECT_THAT(render(value({.json = "{}"}, clock_.now())),
                HasSubstr(R"("data":{"timestamp":1795219106,"stale":false})"));
}

TEST(Splicing, BracesAndQuotesInsideStringsAreText) {
    const std::string text = R"({"a":"},{\"timestamp\":1","timestamp":5,"b":"\\"})";
    EXPECT_EQ(without_members(text, {"timestamp"}), R"({"a":"},{\"timestamp\":1","b":"\\"})");
    EXPECT_TRUE(has_member(text, {"b"}));
    EXPECT_FALSE(has_member(R"({"a":{"b":1}})", {"b"}));
}

TEST(Framing, TheLengthIsWrittenInItsShortestForm) {
    EXPECT_EQ(frame(std::string(125, 'x'))->size(), 127u);
    EXPECT_EQ(frame(std::string(126, 'x'))->text().substr(0, 4),
              std::string("\x81\x7e\x00\x7e", 4));
    EXPECT_EQ(frame(std::string(65'536, 'x'))->text().substr(0, 10),
              std::string("\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10));
}

TEST_F(Rendering, ATransitionNamesItsTopicPollAndReason) {
    const Stream stream{"nas", "system.status"};
    const std::string text =
        render_transition({.stream = &stream,
                           .poll = "system.status",
                           .keys = {"a"},
                           .epoch = "e",
                           .seq = 3,
                           .pos = 9,
                           .age = stale(clock_.now(), "POLL_SILENT", "producer")},
                          clock_.now());
    EXPECT_THAT(text,
                HasSubstr(R"("data":{"topic":"system.status","poll":"system.status","keys":["a"]},)"
                          R"("origin":"nas","seq":3,"pos":9,"epoch":"e","quality":"stale")"));
    EXPECT_THAT(text, HasSubstr(R"("reason":"POLL_SILENT","source":"producer")"));
}

}  // namespace
}  // namespace sigmacast::edge
