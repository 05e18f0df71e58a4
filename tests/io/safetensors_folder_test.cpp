#include "locus/io/safetensors_folder.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::io {
namespace {

class SafetensorsFolders : public ::testing::Test {
 protected:
  // A file with one tensor of bytes for each name.
  void write_shard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorSpec> specs;
    for (const std::string& name : names) specs.push_back({name, DType::kU8, {2}});
    SafetensorsWriter writer(folder_ / file, specs, {{"file", file}});
    const std::vector<uint8_t> bytes = {1, 2};
    for (const std::string& name : names) writer.write(name, std::as_bytes(std::span(bytes)));
    writer.close();
  }
  void write_index(const std::string& weight_map) {
    write_file_atomic(folder_ / "model.safetensors.index.json",
                      "{\"weight_map\": " + weight_map + "}");
  }
  std::string error() {
    const std::string message =
        test::error_of<DataError>([&] { open_safetensors_folder(folder_.path()); });
    EXPECT_TRUE(message.starts_with(folder_.path().string())) << message;
    return message.substr(std::min(message.size(), folder_.path().string().size()));
  }

  const test::TempFolder folder_;
};

std::vector<std::byte> pattern(size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + seed);
  return bytes;
}

TEST_F(SafetensorsFolders, OpensASingleFileByFolderOrByName) {
  write_shard("model.safetensors", {"a", "b"});
  for (const fs::path& path : {folder_.path(), folder_ / "model.safetensors"}) {
    const SafetensorsFolder model = open_safetensors_folder(path);
    EXPECT_EQ(model.tensors().size(), 2U);
    ASSERT_NE(model.find("b"), nullptr);
    EXPECT_EQ(model.find("b")->data.size(), 2U);
    EXPECT_EQ(model.find("c"), nullptr);
    EXPECT_EQ(model.metadata().at("file"), "model.safetensors");
  }
}

TEST_F(SafetensorsFolders, OpensShardsByFolderOrByIndex) {
  write_shard("one.safetensors", {"a", "b"});
  write_shard("two.safetensors", {"c"});
  write_index(R"({"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"})");
  for (const fs::path& path : {folder_.path(), folder_ / "model.safetensors.index.json"}) {
    const SafetensorsFolder model = open_safetensors_folder(path);
    EXPECT_EQ(model.files().size(), 2U);
    ASSERT_EQ(model.tensors().size(), 3U);
    EXPECT_EQ(model.tensors()[2]->name, "c");
    EXPECT_EQ(model.find("c"), model.tensors()[2]);
  }
}

TEST_F(SafetensorsFolders, WritesOneFileWhenItFits) {
  SafetensorsFolderWriter writer(folder_.path(), {{"a", DType::kU8, {10}}}, {{"k", "v"}}, 10);
  writer.write("a", pattern(10, 1));
  const std::vector<WrittenFile> written = writer.close();
  ASSERT_EQ(written.size(), 1U);
  EXPECT_EQ(written[0].name, "model.safetensors");
  EXPECT_EQ(written[0].hash, hash_file(folder_ / "model.safetensors"));
  EXPECT_EQ(written[0].num_bytes, fs::file_size(folder_ / "model.safetensors"));
  EXPECT_EQ(open_safetensors_folder(folder_.path()).metadata().at("k"), "v");
}

TEST_F(SafetensorsFolders, WritesShardsAndAnIndexPastTheLimit) {
  // 6 + 4 fit into 10, 5 does not, 30 is larger than any shard, 0 needs no space.
  const std::vector<int64_t> sizes = {6, 4, 5, 30, 0, 3};
  std::vector<TensorSpec> specs;
  for (size_t i = 0; i < sizes.size(); ++i) {
    specs.push_back({"t" + std::to_string(i), DType::kU8, {sizes[i]}});
  }
  SafetensorsFolderWriter writer(folder_.path(), specs, {{"format", "pt"}}, 10);
  for (size_t i = 0; i < sizes.size(); ++i) {
    writer.write(specs[i].name, pattern(static_cast<size_t>(sizes[i]), static_cast<int>(i)));
  }
  const std::vector<WrittenFile> written = writer.close();
  ASSERT_EQ(written.size(), 5U);
  EXPECT_EQ(written[0].name, "model-00001-of-00004.safetensors");
  EXPECT_EQ(written[3].name, "model-00004-of-00004.safetensors");
  EXPECT_EQ(written[4].name, "model.safetensors.index.json");
  for (const WrittenFile& file : written) {
    EXPECT_EQ(file.hash, hash_file(folder_ / file.name));
    EXPECT_EQ(file.num_bytes, fs::file_size(folder_ / file.name));
  }
  const auto index = nlohmann::json::parse(read_file(folder_ / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 48);
  EXPECT_EQ(index["weight_map"]["t1"], "model-00001-of-00004.safetensors");
  EXPECT_EQ(index["weight_map"]["t2"], "model-00002-of-00004.safetensors");
  EXPECT_EQ(index["weight_map"]["t3"], "model-00003-of-00004.safetensors");
  const SafetensorsFolder model = open_safetensors_folder(folder_.path());
  ASSERT_EQ(model.tensors().size(), sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto data = model.find(specs[i].name)->data;
    const auto expected = pattern(static_cast<size_t>(sizes[i]), static_cast<int>(i));
    EXPECT_TRUE(std::equal(data.begin(), data.end(), expected.begin(), expected.end()));
  }
}

TEST_F(SafetensorsFolders, WriterInsistsOnAllTensors) {
  SafetensorsFolderWriter writer(folder_.path(), {{"a", DType::kU8, {8}}, {"b", DType::kU8, {8}}},
                                 {}, 8);
  EXPECT_THROW(writer.close(), InternalError);
  writer.write("a", pattern(8, 0));
  EXPECT_THROW(writer.close(), InternalError);
}

TEST_F(SafetensorsFolders, SaysWhatAFolderWithoutModelLacks) {
  EXPECT_EQ(error(), ": holds neither model.safetensors nor model.safetensors.index.json");
  const fs::path missing = folder_ / "missing";
  EXPECT_NE(test::error_of<DataError>([&] {
              open_safetensors_folder(missing);
            }).find("missing: cannot be opened"),
            std::string::npos);
}

TEST_F(SafetensorsFolders, RefusesAnIndexOfTheWrongForm) {
  const fs::path path = folder_ / "model.safetensors.index.json";
  for (const char* text : {"", "{", "{\"a\": 1,}"}) {
    write_file_atomic(path, text);
    EXPECT_TRUE(error().starts_with("/model.safetensors.index.json: the index is not valid JSON"));
  }
  write_file_atomic(path, "[]");
  EXPECT_EQ(error(), "/model.safetensors.index.json: the index is not a JSON object");
  write_file_atomic(path, "{\"metadata\": {}}");
  EXPECT_EQ(error(), "/model.safetensors.index.json: has no object \"weight_map\"");
  write_index("{}");
  EXPECT_EQ(error(), "/model.safetensors.index.json: weight_map is empty");
  write_index("{\"a\": 1}");
  EXPECT_EQ(error(), "/model.safetensors.index.json: the file of tensor \"a\" is not text");
  write_index("{\"a\": \"x\", \"a\": \"y\"}");
  EXPECT_EQ(error(), "/model.safetensors.index.json: the index names \"a\" twice");
}

TEST_F(SafetensorsFolders, RefusesShardNamesThatLeadElsewhere) {
  write_shard("one.safetensors", {"a"});
  const std::string absolute = (folder_ / "one.safetensors").string();
  for (const std::string& name : {std::string("../one.safetensors"), std::string(".."),
                                  std::string(), std::string("sub/one.safetensors"), absolute}) {
    write_index("{\"a\": \"" + name + "\"}");
    EXPECT_EQ(error(), "/model.safetensors.index.json: \"" + name +
                           "\" is not the name of a file in the same folder");
  }
}

TEST_F(SafetensorsFolders, RefusesLinksOutOfTheFolder) {
  const test::TempFolder elsewhere;
  write_shard("one.safetensors", {"a"});
  fs::rename(folder_ / "one.safetensors", elsewhere / "one.safetensors");
  fs::create_symlink(elsewhere / "one.safetensors", folder_ / "one.safetensors");
  write_index("{\"a\": \"one.safetensors\"}");
  EXPECT_NE(error().find("/one.safetensors: the link leads out of the folder"), std::string::npos);
  fs::rename(folder_ / "one.safetensors", folder_ / "model.safetensors");
  EXPECT_NE(error().find("/model.safetensors: the link leads out of the folder"),
            std::string::npos);
}

TEST_F(SafetensorsFolders, FollowsTheLinksOfHuggingFacesCache) {
  const fs::path snapshot = folder_ / "snapshots" / "0123abc", blobs = folder_ / "blobs";
  fs::create_directories(snapshot);
  fs::create_directories(blobs);
  write_shard("one.safetensors", {"a"});
  fs::rename(folder_ / "one.safetensors", blobs / "f00");
  fs::create_symlink("../../blobs/f00", snapshot / "model.safetensors");
  EXPECT_EQ(open_safetensors_folder(snapshot).tensors().size(), 1U);
  fs::create_directories(folder_ / "other" / "0123abc");
  fs::create_symlink("../../blobs/f00", folder_ / "other" / "0123abc" / "model.safetensors");
  EXPECT_NE(test::error_of<DataError>([&] {
              open_safetensors_folder(folder_ / "other" / "0123abc");
            }).find("leads out of the folder"),
            std::string::npos);
}

TEST_F(SafetensorsFolders, RefusesPickleFiles) {
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json", "weights.pt"}) {
    write_file_atomic(folder_ / name, "");
    EXPECT_TRUE(error().starts_with(std::string("/") + name + ": pickle files run code")) << name;
    fs::remove(folder_ / name);
  }
}

TEST_F(SafetensorsFolders, ReadsAgainWhatWasReleased) {
  std::vector<std::byte> data(1 << 20, std::byte{7});
  SafetensorsWriter writer(folder_ / "model.safetensors", {{"a", DType::kU8, {1 << 20}}}, {});
  writer.write("a", data);
  writer.close();
  const SafetensorsFolder model = open_safetensors_folder(folder_.path());
  const TensorView& view = *model.find("a");
  release(view);
  EXPECT_TRUE(std::equal(data.begin(), data.end(), view.data.begin(), view.data.end()));
}

TEST_F(SafetensorsFolders, FollowsALinkToTheFolderAndLinksWithin) {
  write_shard("one.safetensors", {"a"});
  fs::create_symlink("one.safetensors", folder_ / "model.safetensors");
  const test::TempFolder elsewhere;
  fs::create_directory_symlink(folder_.path(), elsewhere / "link");
  EXPECT_EQ(open_safetensors_folder(elsewhere / "link").tensors().size(), 1U);
}

TEST_F(SafetensorsFolders, NamesAMissingShard) {
  write_shard("one.safetensors", {"a"});
  write_index(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  EXPECT_TRUE(error().starts_with("/two.safetensors: the file is missing; "));
  fs::create_directory(folder_ / "two.safetensors");
  EXPECT_EQ(error(), "/two.safetensors: is not a regular file");
}

TEST_F(SafetensorsFolders, NamesATensorThatTheIndexListsInTheWrongPlace) {
  write_shard("one.safetensors", {"a"});
  write_index(R"({"a": "one.safetensors", "b": "one.safetensors"})");
  EXPECT_TRUE(error().starts_with("/one.safetensors: tensor \"b\" is absent, but "));
}

TEST_F(SafetensorsFolders, NamesATensorThatIsInTwoShards) {
  write_shard("one.safetensors", {"a", "b"});
  write_shard("two.safetensors", {"b", "c"});
  write_index(R"({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})");
  EXPECT_TRUE(error().starts_with("/two.safetensors: tensor \"b\" is also in "));
}

TEST_F(SafetensorsFolders, RefusesTensorsThatTheIndexDoesNotList) {
  write_shard("one.safetensors", {"a", "b"});
  write_index(R"({"a": "one.safetensors"})");
  EXPECT_EQ(error(), "/model.safetensors.index.json: lists 1 tensors, but its files hold 2");
}

}  // namespace
}  // namespace locus::io
