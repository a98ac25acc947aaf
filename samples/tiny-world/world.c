/*
 * A small ray-cast world: one or two balls or cubes that move over a ground, under a sky, seen by a
 * moving camera. The same file is C (gcc -fopenmp) and CUDA (nvcc -x cu); world.py builds and calls
 * it.
 *
 * One scene is a row of SCENE floats (see vector() in world.py): 0 ground, 1 sky, 2 camera, 3 hill
 * phase, 4 object count, 5 sun azimuth; objects at 8 and 20, each: 0 shape (0 ball, 1 cube), 1-3
 * colour, 4 radius, 5 motion, 6 base x, 7 base z, 8 phase, 9 radius of its circle. The output is
 * float32 [scenes][3][T][H][W] in [-1, 1]. The world has x to the right, y up, z away from the
 * viewer; time u runs from 0 to 1.
 */
#include <math.h>

#ifdef __CUDACC__
#define FN __device__ static inline
#else
#define FN static inline
#endif
#define SCENE 32
#define PI    3.14159265f

enum { GRASS, SAND, SNOW, CHECKER };
enum { DAY, SUNSET, NIGHT };
enum { STATIC, PAN_LEFT, PAN_RIGHT, ZOOM_IN, ORBIT };
enum { ROLL_LEFT, ROLL_RIGHT, BOUNCE, SPIN, CIRCLE, RISE, STAY };

struct vec {
    float x, y, z;
};

struct ray {
    struct vec o, d; /* origin, unit direction */
};

/* Where an object is and how it is turned. */
struct pose {
    struct vec centre;
    float roll, spin;
};

FN float mix(float a, float b, float t)
{
    return a + (b - a) * t;
}

FN float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

FN float smooth(float a, float b, float x)
{
    x = clamp((x - a) / (b - a), 0.f, 1.f);
    return x * x * (3.f - 2.f * x);
}

FN float dot(struct vec a, struct vec b)
{
    return a.x * b.x + a.y * b.y + a.z * b.z;
}

FN struct vec towards_light(void)
{
    struct vec light = {.4508f, .7513f, -.4808f};
    return light;
}

FN struct pose pose_at(const float *object, float u)
{
    float radius = object[4], reach = 1.4f * object[9];
    float angle = 2.f * PI * (.7f * u + object[8]);
    int motion = (int)object[5];
    struct pose p = {{object[6], radius, object[7]}, 0.f, 0.f};
    if (motion == ROLL_LEFT)
        p.centre.x += reach * (1.f - 2.f * u);
    else if (motion == ROLL_RIGHT)
        p.centre.x += reach * (2.f * u - 1.f);
    else if (motion == BOUNCE)
        p.centre.y = radius + 1.3f * fabsf(sinf(PI * (1.5f * u + object[8])));
    else if (motion == SPIN)
        p.spin = angle;
    else if (motion == CIRCLE) {
        p.centre.x += object[9] * cosf(angle);
        p.centre.z += object[9] * sinf(angle);
    } else if (motion == RISE)
        p.centre.y = radius + 2.2f * u;
    if (motion <= ROLL_RIGHT && object[0] < .5f) /* cubes slide */
        p.roll = -p.centre.x / radius;
    return p;
}

/* The ray through image point (X, Y) in [-1, 1]. */
FN struct ray camera_ray(const float *scene, float u, float X, float Y, float aspect)
{
    int camera = (int)scene[2];
    float yaw = camera == PAN_LEFT ? .22f - .44f * u : camera == PAN_RIGHT ? -.22f + .44f * u : 0.f;
    float orbit = camera == ORBIT ? -.4f + .8f * u : 0.f;
    float distance = camera == ZOOM_IN ? -7.3f + 2.f * u : -6.5f;
    float c = cosf(yaw + orbit), s = sinf(yaw + orbit);
    float x = X * aspect, y = -Y - .22f, z = 1.7f, scale = 1.f / sqrtf(x * x + y * y + z * z);
    struct ray ray = {{sinf(orbit) * distance, 2.4f, cosf(orbit) * distance},
                      {(x * c + z * s) * scale, y * scale, (-x * s + z * c) * scale}};
    return ray;
}

FN float horizon_colour(int sky, int channel)
{
    const float colours[3][3] = {{.75f, .87f, .97f}, {.98f, .55f, .25f}, {.10f, .12f, .25f}};
    return colours[sky][channel];
}

FN float lamp_colour(int sky, int channel)
{
    const float colours[3][3] = {{1.f, 1.f, 1.f}, {.95f, .84f, .74f}, {.46f, .49f, .60f}};
    return colours[sky][channel];
}

/* Sky with a sun or moon, and hills. */
FN void shade_sky(const float *scene, struct vec d, float *colour)
{
    const float top[3][3] = {{.25f, .50f, .90f}, {.35f, .20f, .50f}, {.02f, .03f, .10f}};
    const float hill[3][3] = {{.42f, .58f, .60f}, {.45f, .26f, .32f}, {.05f, .07f, .15f}};
    const float sun[3][3] = {{1.f, .98f, .85f}, {1.f, .80f, .35f}, {.90f, .92f, 1.f}};
    int sky = (int)scene[1];
    float height = clamp(d.y, 0.f, .6f) / .6f, azimuth = atan2f(d.x, d.z);
    float elevation = d.y / sqrtf(d.x * d.x + d.z * d.z + 1e-9f);
    float sun_elevation = sky == SUNSET ? .14f : .34f, radius = sky == SUNSET ? .075f : .05f;
    float dx = azimuth - scene[5], dy = elevation - sun_elevation,
          distance = sqrtf(dx * dx + dy * dy);
    float disc = 1.f - smooth(radius * .85f, radius * 1.15f, distance);
    float glow = .35f * expf(-distance * distance / (6.f * radius * radius));
    float light = sky == DAY ? disc : clamp(disc + glow * (1.f - disc), 0.f, 1.f);
    float hills = .055f + .03f * sinf(3.f * azimuth + scene[3]) +
                  .018f * sinf(7.3f * azimuth + 2.1f * scene[3] + 1.f);
    for (int c = 0; c < 3; c++) {
        float horizon = horizon_colour(sky, c);
        colour[c] = mix(mix(horizon, top[sky][c], height), sun[sky][c], light);
        if (elevation < hills)
            colour[c] = mix(horizon, hill[sky][c], smooth(-.02f, hills, elevation) * .9f);
    }
}

/* Soft shadow of all objects at a point of the ground. */
FN float shadow(const float *scene, float u, float x, float z)
{
    struct vec light = towards_light();
    float lit = 1.f;
    for (int i = 0; i < (int)scene[4]; i++) {
        const float *object = scene + 8 + 12 * i;
        struct pose p = pose_at(object, u);
        float radius = object[4], above = fmaxf(p.centre.y - radius, 0.f);
        float dx = x - (p.centre.x - light.x / light.y * above - .4f * radius);
        float dz = z - (p.centre.z - light.z / light.y * above + .4f * radius);
        float spread = (dx * dx + dz * dz) / (radius * radius);
        lit *= 1.f - .55f * expf(-1.1f * spread) / (1.f + .5f * above);
    }
    return lit;
}

/* Texture of the ground; soft fades it with distance. */
FN void ground_colour(int ground, float x, float z, float soft, float *colour)
{
    const float base[3][3] = {{.18f, .48f, .13f}, {.82f, .68f, .42f}, {.88f, .91f, .96f}};
    const float change[3][3] = {{.05f, .12f, .04f}, {.06f, .06f, .05f}, {.04f, .04f, .03f}};
    if (ground == CHECKER) {
        float w = tanhf(6.f * sinf(x * PI / 1.2f) * sinf(z * PI / 1.2f)) * soft;
        colour[0] = colour[1] = .5f + .35f * w;
        colour[2] = .52f + .35f * w;
        return;
    }
    float w = ground == SAND
                  ? sinf(z * 5.f + .8f * sinf(x * 1.2f))
                  : sinf(x * 2.1f + 1.3f * sinf(z * 1.7f)) * sinf(z * 2.6f + sinf(x * 1.1f)) +
                        .5f * sinf(x * 5.3f + z * 3.1f);
    for (int c = 0; c < 3; c++)
        colour[c] = base[ground][c] + change[ground][c] * w * soft;
}

FN void shade_ground(const float *scene, float u, struct ray ray, float t, float *colour)
{
    int sky = (int)scene[1];
    float x = ray.o.x + t * ray.d.x, z = ray.o.z + t * ray.d.z;
    float lit = shadow(scene, u, x, z), far = expf(-t / 28.f), base[3];
    ground_colour((int)scene[0], x, z, expf(-t / 10.f), base);
    for (int c = 0; c < 3; c++)
        colour[c] = mix(horizon_colour(sky, c), base[c] * lamp_colour(sky, c) * lit, far);
}

/* A ball with a stripe that shows rolling and spinning. Distance along the ray, or -1. */
FN float hit_ball(struct pose p, float radius, struct ray ray, struct vec *normal, float *paint)
{
    struct vec l = {ray.o.x - p.centre.x, ray.o.y - p.centre.y, ray.o.z - p.centre.z};
    float b = dot(l, ray.d), q = b * b - (dot(l, l) - radius * radius);
    if (q <= 0.f)
        return -1.f;
    float t = -b - sqrtf(q);
    normal->x = (l.x + t * ray.d.x) / radius;
    normal->y = (l.y + t * ray.d.y) / radius;
    normal->z = (l.z + t * ray.d.z) / radius;
    float across = (normal->x * cosf(p.roll) - normal->y * sinf(p.roll)) * cosf(p.spin) -
                   normal->z * sinf(p.spin);
    *paint = .4f + .6f / (1.f + expf(-30.f * (fabsf(across) - .22f)));
    return t;
}

/* A cube turned about the vertical axis. */
FN float hit_cube(struct pose p, float radius, struct ray ray, struct vec *normal, float *paint)
{
    struct vec l = {ray.o.x - p.centre.x, ray.o.y - p.centre.y, ray.o.z - p.centre.z};
    float c = cosf(p.spin + .5f), s = sinf(p.spin + .5f), half = radius * .86f;
    float near = -1e9f, far = 1e9f;
    float o[3] = {l.x * c - l.z * s, l.y + (radius - half), l.x * s + l.z * c};
    float d[3] = {ray.d.x * c - ray.d.z * s, ray.d.y, ray.d.x * s + ray.d.z * c};
    int axis = 0;
    for (int a = 0; a < 3; a++) {
        float w = 1.f / (fabsf(d[a]) < 1e-5f ? 1e-5f : d[a]);
        float t1 = (-half - o[a]) * w, t2 = (half - o[a]) * w;
        if (fminf(t1, t2) > near) {
            near = fminf(t1, t2);
            axis = a;
        }
        far = fminf(far, fmaxf(t1, t2));
    }
    if (far <= near)
        return -1.f;
    float side = d[axis] > 0.f ? -1.f : 1.f;
    normal->x = axis == 0 ? side * c : axis == 2 ? side * s : 0.f;
    normal->y = axis == 1 ? side : 0.f;
    normal->z = axis == 0 ? -side * s : axis == 2 ? side * c : 0.f;
    return near;
}

/* Paints the object where the ray meets it before *nearest, which it then moves. */
FN void shade_object(const float *object, int sky, float u, struct ray ray, float *nearest,
                     float *colour)
{
    struct pose p = pose_at(object, u);
    struct vec normal, light = towards_light();
    float paint = 1.f;
    float t = object[0] < .5f ? hit_ball(p, object[4], ray, &normal, &paint)
                              : hit_cube(p, object[4], ray, &normal, &paint);
    if (t <= 0.f || t >= *nearest)
        return;
    struct vec half = {light.x - ray.d.x, light.y - ray.d.y, light.z - ray.d.z};
    float diffuse = fmaxf(dot(normal, light), 0.f);
    float gloss = powf(fmaxf(dot(normal, half) / sqrtf(dot(half, half)), 0.f), 40.f);
    *nearest = t;
    for (int c = 0; c < 3; c++)
        colour[c] =
            (object[1 + c] * paint * (.35f + .65f * diffuse) + .35f * gloss) * lamp_colour(sky, c);
}

FN void shade(const float *scene, float u, float X, float Y, float aspect, float *out)
{
    struct ray ray = camera_ray(scene, u, X, Y, aspect);
    float nearest = 1e4f, colour[3];
    if (ray.d.y > -1e-3f)
        shade_sky(scene, ray.d, colour);
    else {
        nearest = -ray.o.y / ray.d.y;
        shade_ground(scene, u, ray, nearest, colour);
    }
    for (int i = 0; i < (int)scene[4]; i++)
        shade_object(scene + 8 + 12 * i, (int)scene[1], u, ray, &nearest, colour);
    for (int c = 0; c < 3; c++)
        out[c] = clamp(colour[c], 0.f, 1.f);
}

/* One output pixel: the mean of rays * rays rays. */
FN void pixel(const float *scene, float *out, int T, int H, int W, int rays, int t, int y, int x)
{
    float sum[3] = {0.f, 0.f, 0.f}, colour[3], u = T > 1 ? (float)t / (T - 1) : 0.f;
    long plane = (long)T * H * W, at = ((long)t * H + y) * W + x;
    for (int a = 0; a < rays; a++)
        for (int b = 0; b < rays; b++) {
            shade(scene, u, (x + (b + .5f) / rays) / W * 2.f - 1.f,
                  (y + (a + .5f) / rays) / H * 2.f - 1.f, (float)W / H, colour);
            for (int c = 0; c < 3; c++)
                sum[c] += colour[c];
        }
    for (int c = 0; c < 3; c++)
        out[c * plane + at] = sum[c] / (rays * rays) * 2.f - 1.f;
}

#ifdef __CUDACC__
__global__ static void kernel(const float *scenes, float *out, int T, int H, int W, int rays)
{
    long at = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < (long)T * H * W)
        pixel(scenes + (long)blockIdx.y * SCENE, out + 3L * T * H * W * blockIdx.y, T, H, W, rays,
              (int)(at / ((long)H * W)), (int)(at / W % H), (int)(at % W));
}

extern "C" int world_render(const float *scenes, float *out, int count, int T, int H, int W,
                            int rays, void *stream)
{
    dim3 grid((unsigned)(((long)T * H * W + 255) / 256), (unsigned)count);
    kernel<<<grid, 256, 0, (cudaStream_t)stream>>>(scenes, out, T, H, W, rays);
    return (int)cudaGetLastError();
}
#else
int world_render(const float *scenes, float *out, int count, int T, int H, int W, int rays,
                 void *stream)
{
    (void)stream;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < (long)count * T * H; i++) {
        int b = (int)(i / ((long)T * H));
        for (int x = 0; x < W; x++)
            pixel(scenes + (long)b * SCENE, out + 3L * T * H * W * b, T, H, W, rays,
                  (int)(i / H % T), (int)(i % H), x);
    }
    return 0;
}
#endif
