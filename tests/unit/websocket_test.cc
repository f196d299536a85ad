#include "edge/websocket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace sigmacast::edge {
namespace {

using Kind = WebSocketReader::Kind;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::size_t kMessageMax = 65'536;

/// As a client sends it: masked, with its length in the fewest bytes.
std::string frame(unsigned first, std::string payload) {
    std::string out{static_cast<char>(first)};
    const std::size_t size = payload.size();
    const int wide = size < 126 ? 0 : size < 65'536 ? 2 : 8;
    out += static_cast<char>(0x80u | (wide == 0 ? size : wide == 2 ? 126u : 127u));
    for (int i = wide - 1; i >= 0; --i) {
        out += static_cast<char>(size >> (8 * i) & 0xffu);
    }
    const std::string mask = "\x11\xa2\x03\xf4";
    out += mask;
    for (std::size_t i = 0; i < size; ++i) {
        out += static_cast<char>(payload[i] ^ mask[i % 4]);
    }
    return out;
}

/// All that was said, read in pieces of one size; ends at what ends a connection.
std::vector<std::string> read(std::string bytes, std::size_t piece = 1'000'000,
                              std::size_t message_max = kMessageMax, bool deflate = false) {
    WebSocketReader reader(message_max, deflate);
    std::vector<std::string> said;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        std::span<char> input(bytes.data() + at, std::min(piece, bytes.size() - at));
        while (true) {
            const auto item = reader.next(input);
            const std::string payload(item.payload);
            if (item.kind == Kind::kMore) {
                EXPECT_TRUE(input.empty());
                break;
            }
            switch (item.kind) {
                case Kind::kFragment:
                    said.emplace_back("fragment");
                    break;
                case Kind::kText:
                    said.push_back((item.compressed ? "compressed text " : "text ") + payload);
                    break;
                case Kind::kBinary:
                    said.push_back((item.compressed ? "compressed binary " : "binary ") + payload);
                    break;
                case Kind::kPing:
                    said.push_back("ping " + payload);
                    break;
                case Kind::kPong:
                    said.push_back("pong " + payload);
                    break;
                case Kind::kClose:
                    said.push_back("close " + std::to_string(item.code));
                    return said;
                default:
                    said.push_back("bad " + std::to_string(item.code));
                    return said;
            }
        }
    }
    return said;
}

TEST(WebSocketReader, ACompressedMessageIsToldWhereThatWasAgreedOn) {
    const std::string bytes = frame(0xc1, "\xff\xfe") + frame(0x81, "plain") + frame(0x42, "in ") +
                              frame(0x89, "between") + frame(0x80, "two") + frame(0x82, "plain");
    for (const std::size_t piece : {1u, 3u, 1'000u}) {
        EXPECT_THAT(read(bytes, piece, kMessageMax, true),
                    ElementsAre("compressed text \xff\xfe", "text plain", "fragment",
                                "ping between", "compressed binary in two", "binary plain"));
    }
    EXPECT_THAT(read(bytes), ElementsAre("bad 1002"));
    for (const unsigned first : {0xc9u, 0xc8u, 0xa1u, 0x91u, 0xe1u}) {  // RFC 7692 6.1: data alone.
        EXPECT_THAT(read(frame(first, ""), 1'000, kMessageMax, true), ElementsAre("bad 1002"));
    }
    EXPECT_THAT(read(frame(0x01, "a") + frame(0xc0, "b"), 1'000, kMessageMax, true),
                ElementsAre("fragment", "bad 1002"))
        << "the first frame says it";
}

TEST(WebSocketReader, WhatIsSaidIsTheSameHoweverTheBytesCome) {
    const std::string long_text = std::string(65'535, 'a') + "b";
    const std::string all = frame(0x81, "whole") + frame(0x01, "a\xe2") + frame(0x89, "between") +
                            frame(0x00, "\x82") + frame(0x00, "") + frame(0x8a, "") +
                            frame(0x80, "\xac z") + frame(0x82, std::string(126, '\xff')) +
                            frame(0x81, "") + frame(0x81, long_text) + frame(0x88, "\x03\xe9 why");
    for (const std::size_t piece : {1U, 2U, 3U, 5U, 7U, 4'096U, 1'000'000U}) {
        EXPECT_THAT(read(all, piece),
                    ElementsAre("text whole", "fragment", "ping between", "fragment", "fragment",
                                "pong ", "text a\u20ac z", "binary " + std::string(126, '\xff'),
                                "text ", "text " + long_text, "close 1001"))
            << "in pieces of " << piece;
    }
}

TEST(WebSocketReader, WhatCameWholeIsNotCopied) {
    std::string bytes = frame(0x81, std::string(1'000, 'x'));
    WebSocketReader reader(kMessageMax);
    std::span<char> input = bytes;
    const auto item = reader.next(input);
    EXPECT_EQ(item.payload.data(), bytes.data() + 8);
    EXPECT_EQ(reader.next(input).kind, Kind::kMore);
}

TEST(WebSocketReader, WhatIsForbiddenIsTooMuchOrNoTextHasItsCode) {
    EXPECT_THAT(read(std::string("\x81\x05hello", 7)), ElementsAre("bad 1002")) << "not masked";
    for (const unsigned first : {0xc1U, 0xa1U, 0x91U, 0x83U, 0x87U, 0x8bU, 0x8fU, 0x09U, 0x08U}) {
        EXPECT_THAT(read(frame(first, "")), ElementsAre("bad 1002")) << std::hex << first;
    }
    EXPECT_THAT(read(frame(0x80, "x")), ElementsAre("bad 1002")) << "it continues nothing";
    EXPECT_THAT(read(frame(0x01, "x") + frame(0x81, "y")), ElementsAre("fragment", "bad 1002"));
    EXPECT_THAT(read(frame(0x89, std::string(126, 'x'))), ElementsAre("bad 1002"));
    EXPECT_THAT(read(std::string("\x81\xfe\x00\x7d", 4) + "mask"), ElementsAre("bad 1002"))
        << "125 in 16 bits";
    EXPECT_THAT(read(frame(0x81, std::string(11, 'x')), 1, 10), ElementsAre("bad 1009"));
    EXPECT_THAT(read(frame(0x01, std::string(10, 'x')) + frame(0x80, "y"), 1, 10),
                ElementsAre("fragment", "bad 1009"));
    EXPECT_THAT(read(frame(0x82, "x") +
                     std::string("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10) + "mask"),
                ElementsAre("binary x", "bad 1009"));
    EXPECT_THAT(read(frame(0x81, "a\xe2\x82")), ElementsAre("bad 1007")) << "cut";
    EXPECT_THAT(read(frame(0x01, "a\xe2\x82") + frame(0x80, "")),
                ElementsAre("fragment", "bad 1007"));
}

TEST(WebSocketReader, NoTextIsFoundBeforeItsFrameIsWhole) {
    const std::string bytes = frame(0x81, "\xed\xa0" + std::string(1'000, 'x'));
    EXPECT_THAT(read(bytes.substr(0, 10), 1), ElementsAre("bad 1007"));
    EXPECT_THAT(read(bytes.substr(0, 9), 1), IsEmpty());
}

TEST(WebSocketReader, ACloseIsAnsweredWithItsCodeOrWithNone) {
    EXPECT_THAT(read(frame(0x88, "")), ElementsAre("close 1000"));
    EXPECT_THAT(read(frame(0x88, "\x0f\xa1")), ElementsAre("close 4001"));
    for (const char* payload :
         {"\x03", "\x03\xed", "\x03\xee", "\x03\xf7", "\x07\xd0", "\x13\x88", "\x03\xe8\xff"}) {
        EXPECT_THAT(read(frame(0x88, payload)), ElementsAre("bad 1002"));
    }
}

TEST(Utf8Check, KnowsEveryBoundOfRfc3629) {
    const auto good = [](std::string_view text) {
        Utf8Check check;
        return check.feed(text) && check.whole();
    };
    for (const char* text :
         {"", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
          "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
        EXPECT_TRUE(good(text)) << text;
    }
    for (const char* text : {"\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                             "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3(", "\xc3", "\xe2\x82"}) {
        EXPECT_FALSE(good(text)) << text;
    }
}

TEST(WebSocketFrames, OfAServerAreNotMaskedAndShort) {
    EXPECT_EQ(ping_frame(), std::string("\x89\x00", 2));
    EXPECT_EQ(pong_frame("hi"), "\x8a\x02hi");
    EXPECT_EQ(close_frame(4102, "slow"), "\x88\x06\x10\x06slow");
    EXPECT_EQ(close_frame(1000, std::string(200, 'x')).size(), 2U + 125U);
}

}  // namespace
}  // namespace sigmacast::edge
