// Pictures: opened from files or results, and samples.

import { call } from "./api.js";
import { el, surface, toBlob } from "./dom.js";

/** Return {blob, name, image, url, width, height} of a file. Formats that the browser lacks are shown as a PNG. */
export async function open(blob, name) {
  const image = await decode(blob).catch(async () => decode(await convert(blob, name)));
  return { blob, name, image, url: image.src, width: image.naturalWidth, height: image.naturalHeight };
}

async function decode(blob) {
  const image = el("img", { src: URL.createObjectURL(blob) });
  try {
    await image.decode();
  } catch (error) {
    URL.revokeObjectURL(image.src);
    throw error;
  }
  return image;
}

/** Let the service decode a file that the browser cannot: strength 0 returns the pixels as they are. */
async function convert(blob, name) {
  const form = new FormData();
  form.append("image", blob, name);
  form.append("strength", "0");
  form.append("format", "png");
  return (await call("denoise", { method: "POST", body: form })).blob();
}

const SCRATCHES = [
  [30, 10, 95, 150, 80, 300],
  [212, 15, 236, 80, 228, 175],
  [10, 215, 110, 200, 205, 214],
];

function scratch(context) {
  context.lineWidth = 3;
  context.strokeStyle = "#f4f0e8";
  for (const line of SCRATCHES) {
    context.beginPath();
    for (let at = 0; at < line.length; at += 2) context.lineTo(line[at], line[at + 1]);
    context.stroke();
  }
}

function addNoise(context) {
  const { width, height } = context.canvas;
  const pixels = context.getImageData(0, 0, width, height);
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  pixels.data.forEach((value, at) => at % 4 < 3 && (pixels.data[at] = value + 26 * normal()));
  context.putImageData(pixels, 0, 0);
}

/** The samples are one portrait: with noise, made small, with scratches, and as it is. */
export const SAMPLES = [
  { task: "denoise", title: "Noisy", name: "noisy.png", spoil: addNoise },
  { task: "superres", title: "Small", name: "small.png", size: 160 },
  { task: "inpaint", title: "Scratched", name: "scratched.png", spoil: scratch },
  { task: "cutout", title: "Portrait", name: "portrait.png" },
];

/** Return a sample as a canvas. */
export function draw(sample, image) {
  const size = sample.size || image.naturalWidth;
  const canvas = surface(size, size);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, size, size);
  sample.spoil?.(context);
  return canvas;
}

export const sampleImage = async () => decode(await (await call("page/sample.webp")).blob());

/** Return the strokes that cover the scratches of the sample. */
export const scratchStrokes = () =>
  SCRATCHES.map((line) => ({ size: 9, points: line.flatMap((x, at) => (at % 2 ? [] : [[x, line[at + 1]]])) }));

/** Return a mask file as white on transparent. Throws Error if its size is not that of the picture. */
export async function readMask(file, { width, height }) {
  const image = (await open(file, file.name)).image;
  if (image.naturalWidth !== width || image.naturalHeight !== height)
    throw new Error(
      `The mask is ${image.naturalWidth}×${image.naturalHeight} pixels, the picture ${width}×${height}. ` +
        "Both must have the same size.",
    );
  const canvas = surface(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const data = new Uint32Array(pixels.data.buffer);
  const least = /jpe?g|webp|avif/.test(file.type) ? 31 : 0; // as the service reads masks
  for (let at = 0; at < data.length; at++) {
    const [r, g, b, a] = pixels.data.subarray(at * 4, at * 4 + 4);
    data[at] = Math.max(r, g, b) > least && a > least ? 0xffffffff : 0;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Return a PNG of an image, for the clipboard. */
export async function toPng({ blob, image, width, height }) {
  if (blob.type === "image/png") return blob;
  const canvas = surface(width, height);
  canvas.getContext("2d").drawImage(image, 0, 0);
  return toBlob(canvas);
}
