// msgpack inside, JSON outside: what each value looks like, and that nothing hostile gets through
// or costs much.
#include "common/codec.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "common/random.h"

namespace sigmacast {
namespace {

using namespace std::string_literals;

/// JSON text through msgpack and back.
std::string round_trip(std::string_view json) {
    std::string out;
    append_json(out, to_msgpack(parse_json(json).value())).value();
    return out;
}

std::string json_of(std::string_view msgpack) {
    std::string out;
    append_json(out, msgpack).value();
    return out;
}

std::string json_of_double(double value) {
    return json_of(to_msgpack(boost::json::value(value)));
}

Error json_error(std::string_view msgpack, const CodecLimits& limits = {}) {
    std::string out = "before";
    const auto result = append_json(out, msgpack, limits);
    EXPECT_FALSE(result);
    EXPECT_EQ(out, "before");
    return result ? Error{} : result.error();
}

std::string nested_arrays(std::size_t depth) {
    return std::string(depth, '\x91') + '\xC0';
}

TEST(JsonFromMsgpack, KeepsEveryKindOfValueAndTheOrderOfMembers) {
    const std::string text =
        R"({"z":null,"a":[true,false,0,-1,18446744073709551615,-9223372036854775808],"s":"x","o":{},"e":[]})";
    EXPECT_EQ(round_trip(text), text);
}

TEST(JsonFromMsgpack, WritesWholeDoublesWithoutAnExponent) {
    EXPECT_EQ(json_of_double(40.0), "40");
    EXPECT_EQ(json_of_double(16e9), "16000000000");
    EXPECT_EQ(json_of_double(-3.0), "-3");
    EXPECT_EQ(json_of_double(0.1), "0.1");
    EXPECT_EQ(json_of_double(1e300), "1e+300");
}

TEST(JsonFromMsgpack, WritesNullForWhatJsonCannotSay) {
    EXPECT_EQ(json_of_double(std::numeric_limits<double>::quiet_NaN()), "null");
    EXPECT_EQ(json_of_double(-std::numeric_limits<double>::infinity()), "null");
}

TEST(JsonFromMsgpack, WritesTheShortestFormOfAFloat32) {
    EXPECT_EQ(json_of("\xCA\x3D\xCC\xCC\xCD"), "0.1");
}

TEST(JsonFromMsgpack, WritesBinaryAsBase64) {
    EXPECT_EQ(json_of("\xC4\x00"s), "\"\"");
    EXPECT_EQ(json_of("\xC4\x01M"s), "\"TQ==\"");
    EXPECT_EQ(json_of("\xC4\x02Ma"s), "\"TWE=\"");
    EXPECT_EQ(json_of("\xC4\x03Man"s), "\"TWFu\"");
    EXPECT_EQ(json_of("\xC4\x02\xFF\xFE"s), "\"//4=\"");
}

TEST(JsonFromMsgpack, PassesDuplicateMembersOn) {
    EXPECT_EQ(json_of("\x82\xA1"s + "a\x01\xA1" + "a\x02"), R"({"a":1,"a":2})");
}

TEST(JsonFromMsgpack, AppendsToWhatIsThere) {
    std::string out = "[1,";
    append_json(out, "\x90").value();
    EXPECT_EQ(out, "[1,[]");
}

TEST(JsonFromMsgpack, RefusesKeysThatAreNotStrings) {
    EXPECT_EQ(json_error("\x81\x01\x01").code, Errc::kInvalid);
    EXPECT_EQ(json_error("\x81\x90\x01").code, Errc::kInvalid);
    EXPECT_EQ(json_error("\x81\xC4\x01k\x01"s).code, Errc::kInvalid);
    EXPECT_EQ(json_error("\x81\xC0\x01").code, Errc::kInvalid);
}

TEST(JsonFromMsgpack, RefusesExtensionTypes) {
    EXPECT_EQ(json_error("\xD4\x01\x00"s).code, Errc::kInvalid);
    EXPECT_EQ(json_error("\x91\xD6\xFF\x00\x00\x00\x00"s).code, Errc::kInvalid);
}

TEST(JsonFromMsgpack, RefusesWhatIsCutOffOrFollowedBySomething) {
    EXPECT_EQ(json_error("").code, Errc::kInvalid);
    EXPECT_EQ(json_error("\x91").code, Errc::kInvalid);
    EXPECT_EQ(json_error("\xA5"
                         "ab")
                  .code,
              Errc::kInvalid);
    EXPECT_EQ(json_error("\xDB\xFF\xFF\xFF\xFF").code, Errc::kInvalid);
    EXPECT_EQ(json_error("\xC0\xC0").code, Errc::kInvalid);
    EXPECT_EQ(json_error("\xC1").code, Errc::kInvalid);
}

TEST(JsonFromMsgpack, RefusesMoreThanItsLimits) {
    const CodecLimits limits{.bytes_max = 100, .elements_max = 10, .depth_max = 4};
    EXPECT_EQ(json_error(std::string(101, '\xC0'), limits).code, Errc::kTooLarge);
    EXPECT_EQ(json_error(nested_arrays(5), limits).code, Errc::kTooLarge);
    EXPECT_EQ(json_error("\x9B", limits).code, Errc::kTooLarge);
    EXPECT_EQ(json_error("\x92\x99\xC0", limits).code, Errc::kTooLarge);
    std::string out;
    EXPECT_TRUE(append_json(out, nested_arrays(4), limits));
}

TEST(JsonFromMsgpack, SurvivesAnyBytes) {
    Random random(20'261'120);
    for (int i = 0; i < 20'000; ++i) {
        std::string bytes =
            to_msgpack(parse_json(R"({"a":[1,2.5,"x",{"b":null}],"c":true})").value());
        for (std::uint64_t flips = random.between(1, 4); flips > 0; --flips) {
            bytes[random.between(0, bytes.size() - 1)] = static_cast<char>(random.between(0, 255));
        }
        bytes.resize(random.between(0, bytes.size()));
        std::string out;
        if (append_json(out, bytes)) {
            EXPECT_TRUE(parse_json(out)) << out;
        }
        static_cast<void>(check_map(bytes));
    }
}

TEST(JsonString, EscapesWhatJsonWantsEscaped) {
    std::string out;
    append_json_string(out, "a\"b\\c\n\r\t\b\f\x01/\x7f\0z"s);
    EXPECT_EQ(out, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001/\x7f\\u0000z\"");
}

TEST(JsonString, WhatNeedsAnEscapeIsFoundWhereverItStands) {
    const auto quoted = [](std::string_view text) {
        std::string out;
        append_json_string(out, text);
        return out;
    };
    const std::string plain = " !#[]^~0123456789azAZ\x7f";
    EXPECT_EQ(quoted(plain), '"' + plain + '"');
    for (char byte = 0; byte < 0x7f; ++byte) {
        const std::string alone = quoted(std::string(1, byte));
        for (std::size_t at = 0; at < plain.size(); ++at) {
            std::string text = plain;
            text[at] = byte;
            EXPECT_EQ(quoted(text), '"' + plain.substr(0, at) + alone.substr(1, alone.size() - 2) +
                                        plain.substr(at + 1) + '"');
        }
    }
}

TEST(JsonString, KeepsUtf8AndRepairsWhatIsNot) {
    const auto quoted = [](std::string_view text) {
        std::string out;
        append_json_string(out, text);
        return out;
    };
    const std::string r = "\xEF\xBF\xBD";
    EXPECT_EQ(quoted("\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80"),
              "\"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\"");
    EXPECT_EQ(quoted("a\xFF"
                     "b"),
              "\"a" + r + "b\"");
    EXPECT_EQ(quoted("\xC0\xAF"), "\"" + r + r + "\"");                  // Overlong.
    EXPECT_EQ(quoted("\xED\xA0\x80"), "\"" + r + r + r + "\"");          // A surrogate.
    EXPECT_EQ(quoted("\xF4\x90\x80\x80"), "\"" + r + r + r + r + "\"");  // Above U+10FFFF.
    EXPECT_EQ(quoted("\xE2\x82"), "\"" + r + "\"");  // Cut off: one character is missing.
    EXPECT_EQ(quoted("\xE2\x82x"), "\"" + r + "x\"");
    EXPECT_EQ(quoted("\x80"), "\"" + r + "\"");
}

TEST(CheckMap, WantsOneMapAndNothingElse) {
    EXPECT_TRUE(check_map("\x80"));
    EXPECT_TRUE(check_map(to_msgpack(parse_json(R"({"a":{"b":[1]}})").value())));
    for (const std::string& bytes : {""s, "\x90"s, "\xC0"s, "\x80\xC0"s, "\x81\xA1"s + "a",
                                     "\x81\x01\x01"s, "\x81\xA1"s + "a\xD4\x01" + "x"}) {
        const auto result = check_map(bytes);
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::kInvalid);
    }
}

TEST(CheckMap, KeepsToTheLimits) {
    const CodecLimits limits{.bytes_max = 10, .elements_max = 2, .depth_max = 2};
    EXPECT_EQ(check_map("\x83"
                        "abcdefg",
                        limits)
                  .error()
                  .code,
              Errc::kTooLarge);
    EXPECT_EQ(check_map("\x80 0123456789", limits).error().code, Errc::kTooLarge);
    EXPECT_EQ(check_map("\x81\xA1"
                        "a\x91\x91\x00"s,
                        limits)
                  .error()
                  .code,
              Errc::kTooLarge);
}

TEST(Msgpack, KeepsWholeDoublesAsDoubles) {
    EXPECT_EQ(to_msgpack(boost::json::value(1.0)), "\xCB\x3F\xF0\x00\x00\x00\x00\x00\x00"s);
    EXPECT_EQ(to_msgpack(boost::json::value(1)), "\x01");
    EXPECT_EQ(to_msgpack(boost::json::value(-1)), "\xFF");
    EXPECT_EQ(to_msgpack(boost::json::value(std::uint64_t{200})), "\xCC\xC8");
}

TEST(ParseJson, NamesTheByteWhereItStops) {
    for (const char* text : {"", "{", "[1,]", "{\"a\"}", "nul", "[1] x", "\"\x01\"", "\"\xFF\"",
                             "{'a':1}", "01", "[1] [2]"}) {
        const auto result = parse_json(text);
        ASSERT_FALSE(result) << text;
        EXPECT_EQ(result.error().code, Errc::kInvalid) << text;
        EXPECT_NE(result.error().message.find("at byte"), std::string::npos);
    }
    EXPECT_NE(parse_json("[1,2,x]").error().message.find("at byte 5"), std::string::npos)
        << parse_json("[1,2,x]").error().message;
}

TEST(ParseJson, AllowsSpaceAround) {
    EXPECT_TRUE(parse_json(" \n{\"a\": 1}\r\n\t "));
}

TEST(ParseJson, RefusesMoreThanItsLimits) {
    const CodecLimits limits{.bytes_max = 60, .elements_max = 5, .depth_max = 3};
    const auto code = [&](std::string_view text) {
        const auto result = parse_json(text, limits);
        return result ? std::optional<Errc>() : result.error().code;
    };
    EXPECT_EQ(code(std::string(61, ' ')), Errc::kTooLarge);
    EXPECT_EQ(code("[[[[1]]]]"), Errc::kTooLarge);
    EXPECT_EQ(code("[1,2,3,4,5,6]"), Errc::kTooLarge);
    EXPECT_EQ(code("[[[1]]]"), std::nullopt);
    EXPECT_EQ(code("[1,2,3,4,5]"), std::nullopt);
    EXPECT_EQ(code(R"(["a,b,[,{\",,,,,,,,"])"), std::nullopt);
}

}  // namespace
}  // namespace sigmacast
