#include "producer/rpc.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "common/codec.h"
#include "engine_captures.h"

namespace sigmacast::producer {
namespace {

Outcome answered(const std::string& body, int status = 200) {
    return judge(http::Response{.status = status, .body = body}, 7);
}

Outcome failed(Errc code) {
    return judge(Error{code, "why"}, 7);
}

TEST(Rpc, ARequestHasMethodParamsAndId) {
    EXPECT_EQ(R"({"jsonrpc":"2.0","method":"agents.list","params":{"a":1},"id":7})",
              rpc_request(7, "agents.list", R"({"a":1})"));
}

TEST(Rpc, ARequestWithoutParamsHasNoParamsMember) {
    EXPECT_EQ(R"({"jsonrpc":"2.0","method":"health.check","id":9007199254740993})",
              rpc_request(9007199254740993, "health.check", ""));
}

TEST(Rpc, AResultIsAValue) {
    const Outcome outcome = answered(R"({"jsonrpc":"2.0","result":{"a":1},"error":null,"id":7})");
    ASSERT_TRUE(outcome.ok()) << outcome.text;
    EXPECT_EQ(1, outcome.value.at("a").as_int64());
}

TEST(Rpc, ADoubleKeepsItsValueFromTheEngineToTheClient) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> percent(0, 100);
    for (int i = 0; i < 1'000; ++i) {
        const double sent = percent(random);
        std::array<char, 32> text{};
        std::snprintf(text.data(), text.size(), "%.17g", sent);
        const Outcome outcome =
            answered(R"({"result":{"v":)" + std::string(text.data()) + R"(},"id":7})");
        ASSERT_TRUE(outcome.ok());
        std::string json;
        ASSERT_TRUE(append_json(json, to_msgpack(outcome.value)));
        const double read = std::strtod(json.c_str() + json.find(':') + 1, nullptr);
        ASSERT_EQ(sent, read) << text.data() << " became " << json;
    }
}

TEST(Rpc, AResultWithoutAnErrorMemberIsAValue) {
    EXPECT_TRUE(answered(R"({"jsonrpc":"2.0","result":[],"id":7})").ok());
}

TEST(Rpc, NoAnswerIsATransportFailure) {
    EXPECT_EQ(Verdict::kTransport, failed(Errc::kUnavailable).verdict);
    EXPECT_EQ(Verdict::kTransport, failed(Errc::kTimeout).verdict);
    EXPECT_TRUE(failed(Errc::kTimeout).timeout);
    EXPECT_FALSE(failed(Errc::kUnavailable).timeout);
    EXPECT_EQ("why", failed(Errc::kUnavailable).text);
}

TEST(Rpc, AnAnswerThatIsTooLargeOrNoHttpIsThePollsOwnFailure) {
    EXPECT_EQ(Verdict::kOwn, failed(Errc::kTooLarge).verdict);
    EXPECT_EQ(Verdict::kOwn, failed(Errc::kInvalid).verdict);
}

TEST(Rpc, EachHttpStatusBut200IsThePollsOwnFailureAndNamed) {
    for (const int status : {204, 302, 404, 405, 422, 500, 503}) {
        const Outcome outcome = answered(R"({"result":1,"error":null,"id":7})", status);
        EXPECT_EQ(Verdict::kOwn, outcome.verdict) << status;
        EXPECT_NE(std::string::npos, outcome.text.find(std::to_string(status))) << outcome.text;
    }
}

TEST(Rpc, WhatIsNotAReplyIsThePollsOwnFailure) {
    for (const char* body :
         {"",
          "nonsense",
          "[]",
          "42",
          "null",
          R"({"result":{"a":1})",
          R"({"result":1} x)",
          R"({"result":1,"error":null})",
          R"({"result":1,"error":null,"id":8})",
          R"({"result":1,"error":null,"id":"7"})",
          R"({"result":1,"error":null,"id":7.0})",
          R"({"result":1,"error":null,"id":null})",
          R"({"result":1,"error":null,"id":-7})",
          R"({"result":null,"error":null,"id":7})",
          R"({"id":7})",
          R"({"result":1,"error":{"code":-32603,"message":"x"},"id":7})",
          R"({"result":null,"error":"boom","id":7})",
          R"({"result":null,"error":{},"id":7})",
          R"({"result":null,"error":{"code":"-32601"},"id":7})",
          R"({"result":null,"error":{"code":-32603,"message":"Internal error"},"id":7})",
          R"({"result":null,"error":{"code":-32600,"message":"not found"},"id":7})"}) {
        const Outcome outcome = answered(body);
        EXPECT_EQ(Verdict::kOwn, outcome.verdict) << body;
        EXPECT_FALSE(outcome.text.empty()) << body;
    }
}

TEST(Rpc, TheTextOfAnErrorIsKeptShortAndOnOneLine) {
    const Outcome outcome = answered(R"({"result":null,"error":{"code":-1,"message":"a\nb)" +
                                     std::string(9000, 'x') + R"("},"id":7})");
    EXPECT_EQ(Verdict::kOwn, outcome.verdict);
    EXPECT_EQ(0u, outcome.text.find("a bx"));
    EXPECT_LT(outcome.text.size(), 400u);
}

TEST(Rpc, TheRecordedUnknownMethodIsUnsupported) {
    for (const char* name : {"storage_pools_list", "storage_disks_list", "agents_tuning_status"}) {
        EXPECT_EQ(Verdict::kUnsupported, judge(capture(name), 1).verdict) << name;
    }
}

TEST(Rpc, TheRecordedUnknownJobIsNotFound) {
    const Outcome outcome = judge(capture("queue_status_unknown_job"), 1);
    EXPECT_EQ(Verdict::kNotFound, outcome.verdict);
    EXPECT_EQ("Internal error: Job not found: nope (-32603)", outcome.text);
}

TEST(Rpc, TheRecordedMalformedCallsAreFailures) {
    for (const char* name : {"batch", "malformed_json", "wrong_params_array", "get_instead_of_post",
                             "wrong_path", "wrong_params_type_limit", "id_null"}) {
        EXPECT_EQ(Verdict::kOwn, judge(capture(name), 1).verdict) << name;
    }
}

TEST(Rpc, ALargeIdIsComparedExactly) {
    EXPECT_TRUE(judge(capture("id_large"), 9007199254740993).ok());
    EXPECT_FALSE(judge(capture("id_large"), 9007199254740992).ok());
}

}  // namespace
}  // namespace sigmacast::producer
