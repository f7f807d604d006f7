/** Of a QEMU; what is behind the minor number doesn't matter to what it can do. */
export type VersionPair = readonly [major: number, minor: number]

/** @param version - such as `7.2.22` */
export function versionPair(version: string): VersionPair {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return [major, minor]
}

export function isAtLeast([hasMajor, hasMinor]: VersionPair, [major, minor]: VersionPair): boolean {
  return hasMajor > major || (hasMajor === major && hasMinor >= minor)
}
