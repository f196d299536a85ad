#include "producer/host_engine/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "producer/host_engine/envelope.h"
#include "producer/host_engine/figures.h"
#include "producer/host_engine/json_problem.h"

namespace sigmacast::host_engine {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const Now kNow{Mono{}, Wall(Millis(1'795'219'057'005))};

// --------------------------------------------------------------------------------------- envelope,
// by the recordings

struct Recorded {
    http::Request request;
    int status = 0;
    std::string body;
    std::string allow;
};

Recorded recorded(const std::string& name) {
    const fs::path file = fs::path(SIGMACAST_TEST_DATA) / "engine-captures" / (name + ".json");
    std::stringstream text;
    text << std::ifstream(file).rdbuf();
    const json::object all = json::parse(text.str()).as_object();
    const json::object& request = all.at("request").as_object();
    Recorded result;
    result.request.method = std::string(request.at("method").as_string());
    result.request.path = std::string(request.at("path").as_string());
    result.request.body = std::string(request.at("body").as_string());
    for (const auto& [key, value] : request.at("headers").as_object()) {
        if (key == "Content-Type") {
            result.request.headers.emplace_back("content-type", std::string(value.as_string()));
        }
    }
    result.status = static_cast<int>(all.at("http_status").as_int64());
    result.body = std::string(all.at("body").as_string());
    for (const json::value& header : all.at("headers").as_array()) {
        if (header.as_array()[0] == "allow") {
            result.allow = std::string(header.as_array()[1].as_string());
        }
    }
    return result;
}

class Recording : public testing::TestWithParam<const char*> {};

TEST_P(Recording, IsAnsweredByteForByte) {
    const Recorded was = recorded(GetParam());
    Host host;
    const http::Response is = answer(was.request, host.methods());
    EXPECT_EQ(is.status, was.status);
    EXPECT_EQ(is.body, was.body);
    std::string allow;
    for (const auto& [name, value] : is.headers) {
        allow += name == "allow" ? value : "";
    }
    EXPECT_EQ(allow, was.allow);
}

INSTANTIATE_TEST_SUITE_P(EngineCaptures, Recording,
                         testing::Values("malformed_json", "not_json_text", "empty_body",
                                         "missing_method", "wrong_params_array",
                                         "wrong_params_string", "batch", "id_float", "id_large",
                                         "id_null", "no_id_notification", "wrong_path",
                                         "wrong_version", "get_instead_of_post",
                                         "content_type_missing", "content_type_text",
                                         "unknown_method", "rest_health", "rest_health_slash",
                                         "health_check", "agents_swarm_status_go_name"),
                         [](const auto& name) { return std::string(name.param); });

/// The same members in the same order, and values of the same types; lists are compared by their
/// first items.
void expect_same_shape(const json::value& is, const json::value& was, const std::string& at) {
    if (was.is_object()) {
        ASSERT_TRUE(is.is_object()) << at;
        std::vector<std::string> is_names;
        std::vector<std::string> was_names;
        for (const auto& [name, value] : is.as_object()) {
            is_names.emplace_back(name);
        }
        for (const auto& [name, value] : was.as_object()) {
            was_names.emplace_back(name);
            if (const json::value* mine = is.as_object().if_contains(name)) {
                expect_same_shape(*mine, value, at + "." + std::string(name));
            }
        }
        EXPECT_EQ(is_names, was_names) << at;
    } else if (was.is_array()) {
        ASSERT_TRUE(is.is_array()) << at;
        if (!was.as_array().empty() && !is.as_array().empty()) {
            expect_same_shape(is.as_array()[0], was.as_array()[0], at + "[0]");
        }
    } else {
        EXPECT_EQ(is.is_number(), was.is_number()) << at;
        EXPECT_EQ(is.is_string(), was.is_string()) << at;
        EXPECT_EQ(is.is_null(), was.is_null()) << at;
    }
}

TEST(SystemStatus, HasTheShapeOfTheRecordedOne) {
    Host host;
    for (const char* name : {"system_status", "system_status_params_flags", "params_null"}) {
        const Recorded was = recorded(name);
        const http::Response is = answer(was.request, host.methods());
        EXPECT_EQ(is.status, was.status);
        expect_same_shape(json::parse(is.body), json::parse(was.body), name);
    }
}

http::Response call(const std::string& body, const Methods& methods = {},
                    const std::string& type = "application/json") {
    http::Request request;
    request.method = "POST";
    request.path = kRpcPath;
    request.body = body;
    request.headers.emplace_back("content-type", type);
    return answer(request, methods);
}

TEST(Envelope, AMethodThatThrowsIsAnInternalErrorWithItsText) {
    const Methods methods{
        {"x", [](const json::object&) -> json::value { throw std::runtime_error("no disk"); }}};
    EXPECT_EQ(call(R"({"method":"x","id":"a"})", methods).body,
              R"({"jsonrpc":"2.0","result":null,"error":{"code":-32603,"message":"Internal error",)"
              R"("data":"no disk"},"id":"a"})");
}

TEST(Envelope, AMethodGetsItsParams) {
    json::object got;
    const Methods methods{{"x", [&](const json::object& params) -> json::value {
                               got = params;
                               return 1.5;
                           }}};
    EXPECT_EQ(call(R"({"method":"x","params":{"a":1},"id":1.0})", methods).body,
              R"({"jsonrpc":"2.0","result":1.5,"error":null,"id":1})");
    EXPECT_EQ(got.at("a"), 1);
}

TEST(Envelope, EveryFaultOfACallIsNamed) {
    const http::Response response = call(R"({"jsonrpc":2,"method":null,"params":1,"id":[]})");
    EXPECT_EQ(response.status, 422);
    std::string types;
    const json::value body = json::parse(response.body);
    for (const json::value& fault : body.at("detail").as_array()) {
        types += json::serialize(fault.at("loc")) + std::string(fault.at("type").as_string()) + " ";
    }
    EXPECT_EQ(types,
              "[\"body\",\"jsonrpc\"]string_type [\"body\",\"method\"]string_type "
              "[\"body\",\"params\"]dict_type [\"body\",\"id\",\"str\"]string_type "
              "[\"body\",\"id\",\"int\"]int_type ");
}

TEST(Envelope, KnowsJsonByItsTypes) {
    for (const char* type :
         {"application/json; charset=utf-8", "Application/JSON", "application/problem+json", ""}) {
        EXPECT_EQ(call(R"({"method":"x"})", {}, type).status, 200) << type;
    }
    for (const char* type : {"text/json", "application/jsonp", "application/xml"}) {
        EXPECT_EQ(call(R"({"method":"x"})", {}, type).status, 422) << type;
    }
}

TEST(Envelope, HostileBodiesAreRefused) {
    EXPECT_EQ(call(std::string(100'000, '[')).status, 400);
    EXPECT_EQ(call("{\"method\":\"\xff\"}").status, 400);
    EXPECT_EQ(call("null").status, 422);
    EXPECT_EQ(call("1").status, 422);
}

TEST(JsonProblem, SaysWhereAndWhyAsPythonDoes) {
    const auto said = [](std::string_view text) {
        const auto problem = json_problem(text);
        return problem ? std::to_string(problem->at) + " " + std::string(problem->what) : "none";
    };
    // From Python 3.11's json module.
    EXPECT_EQ(said(""), "0 Expecting value");
    EXPECT_EQ(said("  "), "2 Expecting value");
    EXPECT_EQ(said("{"), "1 Expecting property name enclosed in double quotes");
    EXPECT_EQ(said("{\"a\"}"), "4 Expecting ':' delimiter");
    EXPECT_EQ(said("{\"a\":}"), "5 Expecting value");
    EXPECT_EQ(said("{\"a\":1 \"b\""), "7 Expecting ',' delimiter");
    EXPECT_EQ(said("{\"a\":1,}"), "7 Expecting property name enclosed in double quotes");
    EXPECT_EQ(said("[1,]"), "3 Expecting value");
    EXPECT_EQ(said("[1 2]"), "3 Expecting ',' delimiter");
    EXPECT_EQ(said("[1"), "2 Expecting ',' delimiter");
    EXPECT_EQ(said("\"abc"), "0 Unterminated string starting at");
    EXPECT_EQ(said("[\"a\nb\"]"), "3 Invalid control character at");
    EXPECT_EQ(said("[\"\\x\"]"), "2 Invalid \\escape");
    EXPECT_EQ(said("{} {}"), "3 Extra data");
    EXPECT_EQ(said("01"), "1 Extra data");
    EXPECT_EQ(said("1.e"), "1 Extra data");
    EXPECT_EQ(said("-"), "0 Expecting value");
    EXPECT_EQ(said("[\"\xc3\xa4\" 1]"), "5 Expecting ',' delimiter");
    EXPECT_EQ(said("[1, -2.5e+3, \"\\u00e4\", NaN, true, null]"), "none");
}

// ------------------------------------------------------------------------------------------------------------
// figures

TEST(Figures, CpuUsageIsBetweenTwoCalls) {
    CpuMeter meter;
    const auto at = [](const char* text) { return *parse_cpu_times(text); };
    EXPECT_DOUBLE_EQ(meter.usage(at("cpu  50 0 50 800 100 0 0 0 7 7\ncpu0 1 1 1 1 1\n")), 10.0);
    EXPECT_DOUBLE_EQ(meter.usage(at("cpu  75 0 50 875 100 0 0 0 9 9\n")), 25.0);
    EXPECT_DOUBLE_EQ(meter.usage(at("cpu  76 0 50 875 100 0 0 0 9 9\n")), 25.0) << "too close";
    EXPECT_DOUBLE_EQ(meter.usage(at("cpu  75 0 50 975 200 0 0 0 9 9\n")), 0.0);
    EXPECT_DOUBLE_EQ(meter.usage(at("cpu  1 0 0 1 0 0 0 0 0 0\n")), 0.0) << "stepped back";
    EXPECT_FALSE(parse_cpu_times("intr 1 2 3\n").has_value());
    EXPECT_FALSE(parse_cpu_times("").has_value());
}

TEST(Figures, MemoryInBytes) {
    const auto memory = parse_memory(
        "MemTotal:  1000 kB\nMemFree:  300 kB\nMemAvailable: 700 kB\nBuffers: 100 kB\n"
        "Cached:  250 kB\nSReclaimable: 50 kB\nHugePages_Total: 0\n");
    ASSERT_TRUE(memory.has_value());
    EXPECT_EQ(memory->total, 1'024'000u);
    EXPECT_EQ(memory->free, 307'200u);
    EXPECT_EQ(memory->available, 716'800u);
    EXPECT_EQ(memory->used, 300u * 1'024);
    EXPECT_FALSE(parse_memory("MemFree: 1 kB\n").has_value());
}

TEST(Figures, LoadAndUptime) {
    const auto load = parse_load("0.52 1.25 10.00 1/143 26858\n");
    ASSERT_TRUE(load.has_value());
    EXPECT_DOUBLE_EQ(load->load1, 0.52);
    EXPECT_DOUBLE_EQ(load->load15, 10.0);
    EXPECT_FALSE(parse_load("1 2").has_value());
    EXPECT_EQ(parse_uptime("6358.95 10953.71\n"), 6358u);
    EXPECT_FALSE(parse_uptime("x").has_value());
}

TEST(Figures, MountsWithBlanksInTheirNamesAndOptionalTags) {
    const auto mounts = parse_mounts(
        "36 35 8:1 / /srv/my\\040disk\\134x rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw\n"
        "37 35 8:2 / /old ro - vfat /dev/sd\\011b rw\n"
        "38 35 8:3 / /err rw - ext4 /dev/sdc ro,errors=remount-ro\n"
        "garbage\n"
        "39 35 8:4 / /short rw - ext4\n");
    ASSERT_THAT(mounts, SizeIs(3));
    EXPECT_EQ(mounts[0].mountpoint, "/srv/my disk\\x");
    EXPECT_EQ(mounts[0].fstype, "ext4");
    EXPECT_EQ(mounts[0].device_number, "8:1");
    EXPECT_FALSE(mounts[0].read_only);
    EXPECT_EQ(mounts[1].source, "/dev/sd\tb");
    EXPECT_TRUE(mounts[1].read_only);
    EXPECT_TRUE(mounts[2].read_only);
}

TEST(Figures, EachRealFileSystemOnceAndNoneOfTheKernelOrTheNetwork) {
    const auto real =
        real_file_systems(parse_mounts("1 0 0:1 / /proc rw - proc proc rw\n"
                                       "2 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
                                       "3 0 8:1 /var/x /bind rw - ext4 /dev/sda1 rw\n"
                                       "4 0 0:30 /@home /home rw - btrfs /dev/sdb rw\n"
                                       "5 0 0:30 /@ /b rw - btrfs /dev/sdb rw\n"
                                       "6 0 0:40 / /nas rw - nfs4 nas:/x rw\n"
                                       "7 0 7:0 / /snap/x ro - squashfs /dev/loop0 ro\n"
                                       "8 0 0:41 / /tank rw - zfs tank rw\n"
                                       "9 0 0:42 / /docker/merged rw - overlay overlay rw\n"
                                       "10 0 8:5 / /hidden rw - ext4 /dev/sdc rw\n"
                                       "11 0 0:50 / /hidden rw - tmpfs tmpfs rw\n"));
    std::vector<std::string> names;
    for (const Mount& mount : real) {
        names.push_back(mount.mountpoint);
    }
    EXPECT_THAT(names, ElementsAre("/", "/b", "/tank"));
}

TEST(Figures, AContainersRootIsAFileSystem) {
    EXPECT_THAT(real_file_systems(parse_mounts("9 0 0:42 / / rw - overlay overlay rw\n")),
                SizeIs(1));
}

constexpr const char* kMdstat =
    "Personalities : [raid1] [raid6] [raid5] [raid4] [raid0]\n"
    "md0 : active raid1 sdb1[1](F) sda1[0]\n"
    "      1000 blocks super 1.2 [2/1] [U_]\n"
    "      bitmap: 0/8 pages [0KB], 65536KB chunk\n"
    "\n"
    "md1 : active (auto-read-only) raid5 sde[3] sdd[1] sdc[0] sdf[4](S)\n"
    "      2000 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]\n"
    "      [==>..................]  recovery = 12.6% (37043392/292945152) finish=127.5min "
    "speed=33440K/sec\n"
    "\n"
    "md2 : inactive sdg[0](S)\n"
    "      500 blocks super 1.2\n"
    "\n"
    "md3 : active raid5 sdh[0]\n"
    "      500 blocks level 5 [3/1] [U__]\n"
    "\n"
    "md4 : active raid0 sdi[0](F) sdj[1]\n"
    "      500 blocks 512k chunks\n"
    "\n"
    "md5 : active raid6 sdk[0] sdl[1]\n"
    "      500 blocks level 6 [4/2] [UU__]\n"
    "      \tresync=DELAYED\n"
    "\n"
    "unused devices: <none>\n";

TEST(Figures, TheStatesOfRaidArrays) {
    const auto arrays = parse_raid_arrays(kMdstat);
    std::vector<std::string> seen;
    for (const RaidArray& array : arrays) {
        seen.push_back(array.name + " " + array.level + " " + array.state + " " +
                       std::to_string(array.size / 1024));
    }
    EXPECT_THAT(seen, ElementsAre("md0 raid1 DEGRADED 1000", "md1 raid5 ONLINE 2000",
                                  "md2  OFFLINE 500", "md3 raid5 FAULTED 500",
                                  "md4 raid0 FAULTED 500", "md5 raid6 DEGRADED 500"));
    ASSERT_THAT(arrays[0].members, SizeIs(2));
    EXPECT_EQ(arrays[0].members[0].name, "sdb1");
    EXPECT_EQ(arrays[0].members[0].state, "FAULTED");
    EXPECT_EQ(arrays[0].members[1].state, "ONLINE");
    EXPECT_EQ(arrays[1].members[3].state, "SPARE");
    EXPECT_EQ(arrays[1].activity,
              "recovery = 12.6% (37043392/292945152) finish=127.5min speed=33440K/sec");
    EXPECT_EQ(arrays[5].activity, "resync=DELAYED");
    EXPECT_THAT(parse_raid_arrays(""), IsEmpty());
    EXPECT_THAT(parse_raid_arrays("Personalities :\nunused devices: <none>\n"), IsEmpty());
}

TEST(Figures, SwapDevices) {
    EXPECT_THAT(parse_swaps("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"),
                ElementsAre("/dev/sda2"));
}

TEST(Figures, PercentHasOneDecimalAndNoDivisionByZero) {
    EXPECT_DOUBLE_EQ(percent(1, 3), 33.3);
    EXPECT_DOUBLE_EQ(percent(5, 0), 0);
}

// ---------------------------------------------------------------------------------------------------------------
// host

/// A machine made of files.
class HostTest : public testing::Test {
 protected:
    HostTest() {
        std::string name = testing::TempDir() + "hostXXXXXX";
        root_ = ::mkdtemp(name.data());
        write("proc/self/mountinfo", "2 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
    }
    ~HostTest() override { fs::remove_all(root_); }

    void write(const std::string& path, const std::string& text) {
        fs::create_directories((root_ / path).parent_path());
        std::ofstream(root_ / path, std::ios::binary) << text;
    }
    Host host() {
        return Host(root_.string(), [this](const std::string& mountpoint) -> std::optional<Space> {
            const auto it = spaces_.find(mountpoint);
            return it == spaces_.end() ? std::nullopt : std::optional(it->second);
        });
    }

    fs::path root_;
    std::map<std::string, Space> spaces_{{"/", {.total = 1'000, .used = 250, .free = 500}}};
};

TEST_F(HostTest, AStatusWithoutItsFilesIsAnErrorThatNamesOne) {
    Host broken = host();
    try {
        (void)broken.status(kNow);
        FAIL() << "it had nothing to tell";
    } catch (const std::exception& problem) {
        EXPECT_STREQ(problem.what(), "/proc/stat cannot be read");
    }
    EXPECT_THAT(call(R"({"method":"system.status","id":1})", broken.methods()).body,
                HasSubstr(R"("data":"/proc/stat cannot be read")"));
}

TEST_F(HostTest, TheStatusListsFileSystems) {
    write("proc/stat", "cpu 1 1 1 1 1 1 1 1\n");
    write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 750 kB\n");
    write("proc/loadavg", "1 2 3 1/1 1\n");
    write("proc/uptime", "77.7 1\n");
    Host machine = host();
    const json::object status = machine.status(kNow);
    EXPECT_EQ(status.at("uptime"), 77);
    EXPECT_EQ(status.at("memory_usage").at("used_percent"), 25.0);
    EXPECT_EQ(status.at("timestamp"), "2026-11-20T23:57:37.005+00:00");
    const json::value& disk = status.at("disk_usage").as_array().at(0);
    EXPECT_EQ(json::serialize(disk.at("device")), "\"/dev/sda1\"");
    EXPECT_EQ(disk.at("mountpoint"), "/");
    EXPECT_EQ(disk.at("fstype"), "ext4");
    EXPECT_EQ(disk.at("total"), 1'000u);
    EXPECT_EQ(disk.at("percent"), 33.3) << "of what an ordinary user can have, as df says";
}

TEST_F(HostTest, AMountIsAPool) {
    const json::array pools = host().pools();
    ASSERT_EQ(pools.size(), 1u);
    EXPECT_EQ(pools[0].at("name"), "/");
    EXPECT_EQ(pools[0].at("state"), "ONLINE");
    EXPECT_EQ(pools[0].at("health"), "healthy");
    EXPECT_EQ(pools[0].at("size"), 1'000u);
    EXPECT_EQ(pools[0].at("allocated"), 250u);
    EXPECT_EQ(pools[0].at("free"), 500u);
    EXPECT_EQ(pools[0].at("capacity"), 33.3);
}

TEST_F(HostTest, AMountOnAnArrayHasItsStateAndOtherArraysAreListedToo) {
    write("proc/self/mountinfo",
          "2 0 8:1 / / rw - ext4 /dev/md0 rw\n3 0 9:9 / /gone rw - ext4 /dev/sdz rw\n");
    write("proc/mdstat", kMdstat);
    const json::array pools = host().pools();
    ASSERT_EQ(pools.size(), 6u) << "the mount of md0, and five arrays";
    EXPECT_EQ(pools[0].at("name"), "/");
    EXPECT_EQ(pools[0].at("state"), "DEGRADED");
    EXPECT_EQ(pools[0].at("health"), "degraded");
    EXPECT_EQ(pools[0].at("vdevs").as_array()[0].at("type"), "raid1");
    EXPECT_EQ(pools[0].at("vdevs").as_array()[0].at("devices").as_array()[0].at("state"),
              "FAULTED");
    EXPECT_EQ(pools[1].at("name"), "md1");
    EXPECT_THAT(std::string(pools[1].at("scan_status").as_string()), HasSubstr("recovery = 12.6%"));
    EXPECT_FALSE(pools[1].as_object().contains("allocated")) << "it is not known";
}

TEST_F(HostTest, ZfsPoolsHaveTheirStateAndTheSpaceOfTheirDatasets) {
    write("proc/self/mountinfo",
          "2 0 0:41 / /tank rw - zfs tank rw\n3 0 0:42 / /tank/home rw - zfs tank/home rw\n");
    write("proc/spl/kstat/zfs/tank/state", "DEGRADED\n");
    write("proc/spl/kstat/zfs/backup/state", "FAULTED\n");
    write("proc/spl/kstat/zfs/arcstats", "1 2 3\n");
    spaces_ = {{"/tank", {.total = 600, .used = 100, .free = 500}},
               {"/tank/home", {.total = 700, .used = 200, .free = 500}}};
    const json::array pools = host().pools();
    ASSERT_EQ(pools.size(), 2u);
    EXPECT_EQ(pools[0].at("name"), "backup");
    EXPECT_EQ(pools[0].at("health"), "faulted");
    EXPECT_EQ(pools[1].at("name"), "tank");
    EXPECT_EQ(pools[1].at("state"), "DEGRADED");
    EXPECT_EQ(pools[1].at("size"), 800u);
    EXPECT_EQ(pools[1].at("allocated"), 300u);
    EXPECT_EQ(pools[1].at("capacity"), 37.5);
}

TEST_F(HostTest, DisksAndWhetherTheyAreUsed) {
    const auto disk = [this](const std::string& name, const std::string& sectors) {
        write("sys/block/" + name + "/size", sectors + "\n");
        write("sys/block/" + name + "/queue/rotational",
              name == "sda" || name == "vda" ? "1\n" : "0\n");
        write("sys/block/" + name + "/removable", name == "sdc" ? "1\n" : "0\n");
    };
    disk("sda", "2000");
    write("sys/block/sda/device/model", "WDC WD40EFRX    \n");
    write("sys/block/sda/device/vpd_pg80", std::string("\0\x80\0\x0c    WD-WX123", 16));
    write("sys/block/sda/dev", "8:0\n");
    write("sys/block/sda/sda1/dev", "8:1\n");
    write("sys/block/sda/device/hwmon/hwmon1/temp1_input", "34500\n");
    disk("nvme0n1", "4000");
    write("sys/block/nvme0n1/device/serial", "S5H9 \n");
    write("sys/block/nvme0n1/device/hwmon0/temp1_input", "41850\n");
    disk("sdb", "10");
    write("sys/block/sdb/sdb1/holders/md0", "");
    disk("sdc", "10");
    disk("sdd", "0");
    disk("loop0", "10");
    disk("zram0", "10");
    disk("dm-0", "10");
    disk("md0", "10");
    disk("vda", "10");
    write("sys/block/vda/serial", "virt\n");
    write("sys/block/vda/vda2/dev", "253:2\n");
    write("proc/swaps", "Filename Type\n/dev/vda2 partition\n");
    std::vector<std::string> lines;
    const json::array disks = host().disks();
    for (const json::value& one : disks) {
        lines.push_back(json::serialize(one));
    }
    EXPECT_THAT(
        lines,
        ElementsAre(
            R"({"name":"nvme0n1","path":"/dev/nvme0n1","model":"","serial":"S5H9","size":2048000,"type":"nvme","rotational":false,"removable":false,"in_use":false,"temperature":4.18E1})",
            R"({"name":"sda","path":"/dev/sda","model":"WDC WD40EFRX","serial":"WD-WX123","size":1024000,"type":"hdd","rotational":true,"removable":false,"in_use":true,"temperature":3.45E1})",
            R"({"name":"sdb","path":"/dev/sdb","model":"","serial":"","size":5120,"type":"ssd","rotational":false,"removable":false,"in_use":true})",
            R"({"name":"sdc","path":"/dev/sdc","model":"","serial":"","size":5120,"type":"ssd","rotational":false,"removable":true,"in_use":false})",
            R"({"name":"vda","path":"/dev/vda","model":"","serial":"virt","size":5120,"type":"virtual","rotational":true,"removable":false,"in_use":true})"));
}

TEST_F(HostTest, InterfacesAndTheirCounters) {
    write("sys/class/net/testnic0/operstate", "up\n");
    write("sys/class/net/testnic0/address", "02:fc:00:00:00:01\n");
    write("sys/class/net/testnic0/mtu", "1400\n");
    write("sys/class/net/testnic0/speed", "-1\n");
    write("sys/class/net/testnic0/statistics/rx_bytes", "123456789012\n");
    write("sys/class/net/testnic1/speed", "2500\n");
    const json::object network = host().network(kNow);
    const json::array& interfaces = network.at("interfaces").as_array();
    ASSERT_EQ(interfaces.size(), 2u);
    EXPECT_EQ(interfaces[0].at("state"), "up");
    EXPECT_EQ(interfaces[0].at("mtu"), 1400);
    EXPECT_EQ(interfaces[0].at("rx_bytes"), 123456789012);
    EXPECT_FALSE(interfaces[0].as_object().contains("speed_mbps"));
    EXPECT_EQ(interfaces[1].at("speed_mbps"), 2500);
}

TEST_F(HostTest, TheLoopbackInterfaceHasItsAddress) {
    write("sys/class/net/lo/operstate", "unknown\n");
    const json::object network = host().network(kNow);
    const json::array& addresses =
        network.at("interfaces").as_array()[0].at("addresses").as_array();
    ASSERT_FALSE(addresses.empty());
    EXPECT_EQ(addresses[0].at("address"), "127.0.0.1");
    EXPECT_EQ(addresses[0].at("prefix"), 8);
}

TEST(ThisMachine, HasDisksAndPoolsOfTheContractsTypes) {
    Host host;
    for (const json::value& pool : host.pools()) {
        EXPECT_TRUE(pool.at("name").is_string());
        EXPECT_TRUE(pool.at("state").is_string());
        EXPECT_TRUE(pool.at("size").is_number());
    }
    for (const json::value& disk : host.disks()) {
        EXPECT_TRUE(disk.at("path").is_string());
        EXPECT_GT(disk.at("size").to_number<std::uint64_t>(), 0u);
    }
}

}  // namespace
}  // namespace sigmacast::host_engine
