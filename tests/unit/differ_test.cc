#include "producer/differ.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace sigmacast::producer {
namespace {

boost::json::object object(const char* text) {
    return boost::json::parse(text).as_object();
}

bool same(const char* a, const char* b, const std::vector<std::string>& ignore = {}) {
    return same_value(object(a), object(b), ignore);
}

TEST(Differ, TheFirstValueOfAKeyIsNew) {
    Differ differ;
    EXPECT_TRUE(differ.update("t", "a", object(R"({"x":1})"), {}));
    EXPECT_TRUE(differ.update("t", "b", object(R"({"x":1})"), {}));
    EXPECT_TRUE(differ.update("u", "a", object(R"({"x":1})"), {}));
}

TEST(Differ, AnEqualValueIsNotNewAndADifferentOneIs) {
    Differ differ;
    differ.update("t", "a", object(R"({"x":1})"), {});
    EXPECT_FALSE(differ.update("t", "a", object(R"({"x":1})"), {}));
    EXPECT_TRUE(differ.update("t", "a", object(R"({"x":2})"), {}));
    EXPECT_FALSE(differ.update("t", "a", object(R"({"x":2})"), {}));
}

TEST(Differ, WhatWasLastSentIsRememberedUntilForgotten) {
    Differ differ;
    differ.update("t", "a", object(R"({"x":1,"timestamp":5})"), {});
    differ.update("t", "a", object(R"({"x":1,"timestamp":6})"), {});
    ASSERT_NE(nullptr, differ.last("t", "a"));
    EXPECT_EQ(5, differ.last("t", "a")->at("timestamp").as_int64());
    differ.forget("t", "a");
    EXPECT_EQ(nullptr, differ.last("t", "a"));
    EXPECT_EQ(0u, differ.size());
}

TEST(Differ, TimestampsDoNotCountAtAnyDepth) {
    EXPECT_TRUE(same(R"({"timestamp":1,"x":[{"y":{"timestamp":1,"z":2}}]})",
                     R"({"timestamp":2,"x":[{"y":{"z":2}}]})"));
    EXPECT_FALSE(
        same(R"({"x":[{"y":{"timestamp":1,"z":2}}]})", R"({"x":[{"y":{"timestamp":1,"z":3}}]})"));
}

TEST(Differ, IgnoredFieldsDoNotCountInTheOutermostObjectAlone) {
    EXPECT_TRUE(same(R"({"a":1,"b":1})", R"({"a":2,"b":1})", {"a"}));
    EXPECT_TRUE(same(R"({"a":1,"b":1})", R"({"b":1})", {"a"}));
    EXPECT_FALSE(same(R"({"b":{"a":1}})", R"({"b":{"a":2}})", {"a"}));
}

TEST(Differ, AddedRemovedAndNullMembersAreDifferences) {
    EXPECT_FALSE(same(R"({"a":1})", R"({"a":1,"b":2})"));
    EXPECT_FALSE(same(R"({"a":1,"b":2})", R"({"a":1})"));
    EXPECT_FALSE(same(R"({"a":1,"b":2})", R"({"a":1,"c":2})"));
    EXPECT_FALSE(same(R"({"a":null})", R"({"b":null})"));
    EXPECT_FALSE(same(R"({"a":[1]})", R"({"a":[1,2]})"));
}

TEST(Differ, TheOrderOfMembersIsNoDifference) {
    EXPECT_TRUE(same(R"({"a":1,"b":2})", R"({"b":2,"a":1})"));
}

}  // namespace
}  // namespace sigmacast::producer
