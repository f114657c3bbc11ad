// PNG and animated PNG files. https://www.w3.org/TR/png-3/

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GREY = 0;
const RGB = 2;

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/**
 * Encode canvases of one size: one as a PNG, several as the frames of an animated PNG, `milliseconds` each. `channels`:
 * 1 or 3; `scale`: the side, in pixels of the file, of a canvas's pixel.
 */
export async function encodePng(canvases, channels, milliseconds = 0, scale = 1) {
  const width = canvases[0].width * scale;
  const height = canvases[0].height * scale;
  const header = new Uint8Array([...uint32(width), ...uint32(height), 8, channels === 3 ? RGB : GREY, 0, 0, 0]);
  const chunks = [chunk("IHDR", header)];
  const isAnimated = canvases.length > 1;
  if (isAnimated) chunks.push(chunk("acTL", new Uint8Array([...uint32(canvases.length), ...uint32(0)])));
  let sequence = 0;
  for (const [index, canvas] of canvases.entries()) {
    if (isAnimated) {
      const head = [...uint32(sequence), ...uint32(width), ...uint32(height), ...uint32(0), ...uint32(0)];
      chunks.push(chunk("fcTL", new Uint8Array([...head, ...uint16(milliseconds), ...uint16(1000), 0, 0])));
      sequence += 1;
    }
    const data = await deflate(scanlines(canvas, channels, scale));
    if (index === 0) chunks.push(chunk("IDAT", data));
    else {
      chunks.push(chunk("fdAT", concat(uint32(sequence), data)));
      sequence += 1;
    }
  }
  return new Blob([new Uint8Array(SIGNATURE), ...chunks, chunk("IEND", new Uint8Array())], { type: "image/png" });
}

/** Rows of pixels, each after its filter type: 0, none. */
function scanlines(canvas, channels, scale) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const stride = 1 + width * scale * channels;
  const lines = new Uint8Array(height * scale * stride);
  for (let y = 0; y < height * scale; y += 1) {
    for (let x = 0; x < width * scale; x += 1) {
      const from = 4 * (Math.floor(y / scale) * width + Math.floor(x / scale));
      for (let c = 0; c < channels; c += 1) lines[y * stride + 1 + x * channels + c] = data[from + c];
    }
  }
  return lines;
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(type, data) {
  const body = concat(new TextEncoder().encode(type), data);
  let crc = 0xffffffff;
  for (const byte of body) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return concat(uint32(data.length), body, uint32((crc ^ 0xffffffff) >>> 0));
}

function concat(...parts) {
  const bytes = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const uint32 = (value) => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const uint16 = (value) => [value >>> 8, value & 255];
