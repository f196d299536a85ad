// Clocks, the two notations of time, and randomness.
#include "common/time.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "common/random.h"

namespace sigmacast {
namespace {

Wall wall(std::int64_t ms) {
    return Wall{Millis{ms}};
}

Wall parsed(std::string_view text) {
    return parse_rfc3339(text).value();
}
Millis duration(std::string_view text) {
    return parse_duration(text).value();
}

TEST(Rfc3339, WritesUtcWithMilliseconds) {
    EXPECT_EQ(to_rfc3339(wall(1'795'219'104'912)), "2026-11-20T23:58:24.912Z");
    EXPECT_EQ(to_rfc3339(wall(0)), "1970-01-01T00:00:00.000Z");
    EXPECT_EQ(to_rfc3339(wall(-1)), "1969-12-31T23:59:59.999Z");
}

TEST(Rfc3339, KeepsToFourDigitYears) {
    EXPECT_EQ(to_rfc3339(Wall::max()), "9999-12-31T23:59:59.999Z");
    EXPECT_EQ(to_rfc3339(Wall::min()), "0000-01-01T00:00:00.000Z");
}

TEST(Rfc3339, ReadsWhatItWrites) {
    for (const std::int64_t ms : {0LL, 951'782'400'000LL, 1'795'219'104'912LL, -86'400'001LL}) {
        EXPECT_EQ(parsed(to_rfc3339(wall(ms))), wall(ms));
    }
}

TEST(Rfc3339, ReadsOffsetsAndAnyNumberOfFractionDigits) {
    EXPECT_EQ(parsed("2026-11-21T00:58:24+01:00"), parsed("2026-11-20T23:58:24Z"));
    EXPECT_EQ(parsed("2026-11-20T18:28:24.5-05:30"), parsed("2026-11-20T23:58:24.500Z"));
    EXPECT_EQ(parsed("2026-11-20t23:58:24.912999999z"), wall(1'795'219'104'912));
    EXPECT_EQ(parsed("2016-12-31T23:59:60Z"), parsed("2017-01-01T00:00:00Z"));
}

TEST(Rfc3339, RefusesWhatIsNotATime) {
    for (const char* text :
         {"", "2026-11-20", "2026-11-20T23:58:24", "2026-11-20 23:58:24Z", "2026-02-30T00:00:00Z",
          "2026-13-01T00:00:00Z", "2026-11-20T24:00:00Z", "2026-11-20T23:60:00Z",
          "2026-11-20T23:58:24.Z", "2026-11-20T23:58:24Zx", "+026-11-20T23:58:24Z",
          "2026-11-20T23:58:24+0100", "2026-11-20T23:58:24+24:00"}) {
        const auto result = parse_rfc3339(text);
        ASSERT_FALSE(result) << text;
        EXPECT_EQ(result.error().code, Errc::kInvalid);
    }
}

TEST(UnixSeconds, RoundDownOnBothSidesOf1970) {
    EXPECT_EQ(unix_seconds(wall(1999)), 1);
    EXPECT_EQ(unix_seconds(wall(-1)), -1);
}

TEST(Duration, ReadsGosNotation) {
    EXPECT_EQ(duration("30s"), Millis{30'000});
    EXPECT_EQ(duration("1.5s"), Millis{1500});
    EXPECT_EQ(duration("250ms"), Millis{250});
    EXPECT_EQ(duration("2h45m"), Millis{9'900'000});
    EXPECT_EQ(duration("1h0m0.001s"), Millis{3'600'001});
    EXPECT_EQ(duration(".5m"), Millis{30'000});
    EXPECT_EQ(duration("0"), Millis{0});
}

TEST(Duration, RoundsToMilliseconds) {
    EXPECT_EQ(duration("100us"), Millis{0});
    EXPECT_EQ(duration("1600us"), Millis{2});
    EXPECT_EQ(duration("1600\xC2\xB5s"), Millis{2});
    EXPECT_EQ(duration("2000000ns"), Millis{2});
}

TEST(Duration, RefusesWhatCouldBeMisread) {
    for (const char* text : {"", "5", "1.5", "-1s", "5min", "5d", "s", ".s", "1s2", "1 s", " 1s",
                             "1h-5m", "1e3s", "inf", "nan", "999999999999h", "5M"}) {
        const auto result = parse_duration(text);
        ASSERT_FALSE(result) << text;
        EXPECT_EQ(result.error().code, Errc::kInvalid);
    }
}

TEST(Duration, WritesWhatItReads) {
    EXPECT_EQ(format_duration(Millis{0}), "0s");
    EXPECT_EQ(format_duration(Millis{250}), "250ms");
    EXPECT_EQ(format_duration(Millis{1500}), "1.5s");
    EXPECT_EQ(format_duration(Millis{300'000}), "5m");
    EXPECT_EQ(format_duration(Millis{9'900'000}), "2h45m");
    EXPECT_EQ(format_duration(Millis{3'600'001}), "1h0.001s");
    EXPECT_EQ(format_duration(Millis{-1500}), "-1.5s");
    Random random(1);
    for (int i = 0; i < 1000; ++i) {
        const Millis some = random.upto(Millis{1'000'000'000});
        EXPECT_EQ(duration(format_duration(some)), some);
    }
}

TEST(Elapsed, IsNeverNegative) {
    const Mono start{Micros{5'000'000}};
    EXPECT_EQ(elapsed(start, start + Millis{7}), Millis{7});
    EXPECT_EQ(elapsed(start + Millis{7}, start), Millis{0});
}

TEST(BootClock, DoesNotGoBack) {
    const Now first = system_now();
    const Now second = system_now();
    EXPECT_LE(first.mono, second.mono);
    EXPECT_GT(first.mono, Mono{});
}

TEST(BootId, StaysTheSame) {
    EXPECT_EQ(boot_id(), boot_id());
}

TEST(Random, RepeatsItselfFromASeed) {
    Random a(42);
    Random b(42);
    EXPECT_EQ(a.hex(16), b.hex(16));
    EXPECT_NE(a.hex(16), a.hex(16));
}

TEST(Random, FromTheSystemDiffersEachTime) {
    EXPECT_NE(Random::from_system().hex(16), Random::from_system().hex(16));
}

TEST(Random, StaysWithinItsBoundsAndReachesBoth) {
    Random random(7);
    std::set<std::uint64_t> seen;
    for (int i = 0; i < 200; ++i) {
        seen.insert(random.between(3, 5));
    }
    EXPECT_EQ(seen, (std::set<std::uint64_t>{3, 4, 5}));
    EXPECT_EQ(random.between(9, 9), 9u);
    EXPECT_EQ(random.upto(Millis{0}), Millis{0});
    EXPECT_LE(random.upto(Millis{10}), Millis{10});
}

TEST(Random, MakesVersion4Uuids) {
    Random random(7);
    for (int i = 0; i < 50; ++i) {
        const std::string id = random.uuid();
        ASSERT_EQ(id.size(), 36u);
        EXPECT_EQ(id[8], '-');
        EXPECT_EQ(id[13], '-');
        EXPECT_EQ(id[14], '4');
        EXPECT_EQ(id[18], '-');
        EXPECT_NE(std::string("89ab").find(id[19]), std::string::npos);
        EXPECT_EQ(id[23], '-');
        EXPECT_EQ(random.hex(5).size(), 10u);
    }
}

}  // namespace
}  // namespace sigmacast
